"""What the server of the user study takes: many raters, kills, slow clients, and a proxy.

    python -m benchmarks.study_server

Four runs, each on a server and a study of its own. Server, raters and proxy share this machine, so
the times say what such a machine manages, not what the server alone would. Needs nginx.
"""

import argparse
import contextlib
import functools
import http.client
import importlib.metadata
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.compare import RESULTS, ROOT, describe
from rocm_core.configuration import StudySettings
from rocm_core.prompts import Prompt
from rocm_core.provenance import atomic_write
from rocm_core.study.build import build
from rocm_core.study.design import QUESTIONS
from rocm_core.study.votes import read_votes

SIDE = 128  # pixels of an image, noise: 49 kB
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream study {{ server 127.0.0.1:{server}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://study;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


def make_study(root: Path, raters: int, pairs: int) -> Path:
    """A study of noise."""
    generator = np.random.default_rng(0)
    prompts = [Prompt(f"{i:04d}", f"prompt {i}", "noise") for i in range(pairs)]
    for name in ("one", "other"):
        (root / name).mkdir()
        rows = []
        for prompt in prompts:
            pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{prompt.id}.png")
            row = {"prompt_id": prompt.id, "text": prompt.text, "file": f"{prompt.id}.png"}
            rows.append(json.dumps(row))
        (root / name / "index.jsonl").write_text("\n".join(rows))
    values = {"comparisons": [["one", "other"]], "pairs": pairs, "raters": raters}
    settings = StudySettings.from_dict(
        {"prompts": "validation", "shares": {}, "seed": 0, "ties": True, **values}
    )
    build(settings, {name: root / name for name in ("one", "other")}, prompts, root / "study")
    return root / "study"


class Server:
    """`python -m rocm_core.study serve`, which can be killed and started again at its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "rocm_core.study", "serve", "--study", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        raters = len(json.loads((self.folder / "key.json").read_text())["raters"])
        lines = [self.process.stdout.readline() for _ in range(1 + raters)]
        self.codes = [line.strip().partition("=")[2] for line in lines[1:]]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit status after a signal."""
        self.process.send_signal(number)
        self.process.communicate()
        return self.process.returncode


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


class Client:
    """A rater with one connection, opened again when it breaks."""

    def __init__(self, port: int, code: str) -> None:
        self.code = code
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self.connection.request(method, path, body or None, fields)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.connection.close()
            raise

    def order(self, **more: Any) -> list[list[str]]:
        status, content = self.ask("GET", f"/session?rater={self.code}", **more)
        if status != 200:
            raise http.client.HTTPException(status)
        return json.loads(content)["order"]

    def vote(self, shown: list[str]) -> bool:
        """Is the vote stored? It is the same whenever it is sent."""
        answers = dict.fromkeys(QUESTIONS, random.Random(self.code + shown[0]).choice(shown[1:]))
        vote = {"rater": self.code, "pair": shown[0], "answers": answers}
        body = json.dumps(vote).encode()
        return self.ask("POST", "/votes", body, Content_Type="application/json")[0] == 200


def rate_all(port: int, code: str) -> list[float]:
    """Seconds of each vote of a rater who looks at all pairs."""
    client, seconds = Client(port, code), []
    for shown in client.order():
        for image in shown[1:]:
            assert client.ask("GET", f"/images/{image}.png")[0] == 200
        began = time.perf_counter()
        assert client.vote(shown)
        seconds.append(time.perf_counter() - began)
    client.connection.close()
    return seconds


def many_raters(server: Server) -> dict[str, Any]:
    """All raters at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(server.codes)) as pool:
        seconds = [*pool.map(lambda code: rate_all(server.port, code), server.codes)]
    wall = time.perf_counter() - began
    votes = np.concatenate([np.array(one) for one in seconds])
    return {
        "raters": len(server.codes),
        "acknowledged": len(votes),
        **count(server),
        "seconds": wall,
        "seconds_of_a_vote": {
            name: float(np.percentile(votes, share))
            for name, share in {"median": 50, "p99": 99, "most": 100}.items()
        },
    }


def count(server: Server) -> dict[str, int]:
    votes = read_votes(server.folder / "votes.jsonl")
    return {"stored": len(votes), "distinct": len({(vote.rater, vote.pair) for vote in votes})}


def kills(server: Server, number: int) -> dict[str, Any]:
    """Raters who never give up, on a server that is killed again and again."""
    acknowledged: set[tuple[str, str]] = set()
    unanswered: list[str] = []

    def insist(code: str) -> None:
        client = Client(server.port, code)
        for shown in until_done(code, client.order):
            until_done(code, functools.partial(client.vote, shown))
            acknowledged.add((code, shown[0]))
            time.sleep(0.1)

    def until_done(code: str, ask: Callable[[], Any]) -> Any:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if answer := ask():
                    return answer
            unanswered.append(code)
            time.sleep(0.05)

    lost = 0
    with ThreadPoolExecutor(len(server.codes)) as pool:
        raters = [pool.submit(insist, code) for code in server.codes]
        for _ in range(number):
            time.sleep(random.uniform(0.05, 0.7))
            server.stop(signal.SIGKILL)
            known = set(acknowledged)
            votes = read_votes(server.folder / "votes.jsonl")
            lost += len(known - {(vote.rater, vote.pair) for vote in votes})
            server.start()
        unfinished = sum(not rater.done() for rater in raters)
        for rater in raters:
            rater.result()
    return {
        "kills": number,
        "raters": len(raters),
        "raters_unfinished_at_the_last_kill": unfinished,
        "requests_without_an_answer": len(unanswered),
        "acknowledged": len(acknowledged),
        "acknowledged_and_lost": lost,
        **count(server),
    }


@contextlib.contextmanager
def slow_clients(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Sockets that are silent, send a byte each second, or never read what they asked for."""
    header = b"POST /votes HTTP/1.1\r\nHost: study\r\n"
    starts = [
        b"",
        header,
        header + b"Content-Length: 4000\r\n\r\n{",
        header.replace(b"POST /votes", b"GET /session") + b"Content-Length: 4000\r\n\r\n",
        header + b"Transfer-Encoding: chunked\r\n\r\nf",
        b"GET /study.js HTTP/1.1\r\nHost: study\r\n\r\n" * 500,
    ]
    stopped = threading.Event()
    with contextlib.ExitStack() as stack:
        clients = []
        for index in range(number):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(starts[index % len(starts)])
            client.setblocking(False)
            clients.append(client)

        def trickle() -> None:
            while not stopped.wait(1):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.send(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield clients
        finally:
            stopped.set()
            thread.join()


def is_connected(client: socket.socket) -> bool:
    try:
        client.send(b"x")
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return True


def nginx_program() -> str:
    """The path of nginx; leaves with a sentence if it is not installed."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    return program or sys.exit("nginx is not installed: apt-get install nginx-light")


@contextlib.contextmanager
def nginx(server: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """nginx with keep-alive in front of the server at a port."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the workers are another user
        port, file = free_port(), Path(folder, "nginx.conf")
        file.write_text(NGINX.format(folder=folder, server=server, port=port))
        process = subprocess.Popen([nginx_program(), "-c", str(file), "-e", f"{folder}/error.log"])
        try:
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.05)
            yield port, process
        finally:
            process.terminate()
            process.wait()


def behind_a_proxy(server: Server) -> dict[str, Any]:
    """Raters whose requests carry other raters' requests; whose answers does each get?"""
    with nginx(server.port) as (port, process), ThreadPoolExecutor(len(server.codes)) as pool:
        orders = {code: Client(server.port, code).order() for code in server.codes}
        outcomes = [*pool.map(lambda code: provoke(port, code, orders), server.codes)]
        connections = [
            connection
            for worker in psutil.Process(process.pid).children()
            for connection in worker.net_connections()
            if connection.raddr and connection.raddr.port == server.port
        ]
    total = {name: sum(outcome[name] for outcome in outcomes) for name in outcomes[0]}
    return {
        "raters": len(orders),
        **total,
        **count(server),
        "connections_that_nginx_keeps": len(connections),
    }


def provoke(port: int, code: str, orders: dict[str, list[list[str]]]) -> dict[str, int]:
    """One rater's votes, with requests between them that a careless server takes for two."""
    client, chooser = Client(port, code), random.Random(code)
    total = {"requests": 0, "answers_for_another": 0, "broken": 0, "acknowledged": 0}

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        total["requests"] += 1
        try:
            status, content = client.ask(method, path, body, **headers)
        except (OSError, http.client.HTTPException):
            total["broken"] += 1
            return 0, b""
        others = content.startswith(b'{"order"') and json.loads(content)["order"] != orders[code]
        total["answers_for_another"] += others
        return status, content

    for shown in orders[code]:
        another = chooser.choice([other for other in orders if other != code])
        carried = f"GET /session?rater={another} HTTP/1.1\r\nHost: study\r\n\r\n".encode()
        mine = f"/session?rater={code}"
        ask("GET", mine, carried)
        ask("GET", f"/images/{shown[1]}.png", carried)
        ask("HEAD", mine)
        ask("POST", mine, carried)
        ask("PUT", "/votes", carried)
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(carried), carried)
        ask("GET", mine, chunks, Transfer_Encoding="chunked")
        ask("POST", "/votes", chunks + carried, Transfer_Encoding="chunked", Content_Length="5")
        ask("GET", mine)
        total["acknowledged"] += client.vote(shown)
        status, content = ask("GET", mine)
        total["broken"] += status != 200 or shown[0] not in json.loads(content)["answered"]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--slow", type=int, default=300, help="slow clients")
    parser.add_argument("--output", type=Path, default=RESULTS / "study-server.json")
    args = parser.parse_args()

    def slowed(server: Server) -> dict[str, Any]:
        with slow_clients(server.port, args.slow) as clients:
            outcome = many_raters(server)
            return {"slow_clients_to_the_end": sum(map(is_connected, clients)), **outcome}

    runs: dict[str, tuple[int, int, Callable[[Server], dict[str, Any]]]] = {
        "many_raters": (args.raters, args.pairs, many_raters),
        "kills": (20, 10 * args.kills, lambda server: kills(server, args.kills)),
        "slow_clients": (args.raters, args.pairs, slowed),
        "proxy": (50, args.pairs, behind_a_proxy),
    }
    shown = subprocess.run([nginx_program(), "-v"], capture_output=True, text=True).stderr
    versions = {name: importlib.metadata.version(name) for name in ("uvicorn", "h11")}
    versions["nginx"] = shown.strip().rpartition("/")[2]
    record = describe("cpu") | {"cores": os.cpu_count(), "versions": versions}
    for name, (raters, pairs, run) in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            server = Server(make_study(Path(folder), raters, pairs))
            try:
                record[name] = run(server)
            finally:
                status = server.stop()
            record[name]["exit_status"] = status
        print(name, json.dumps(record[name]), flush=True)
    with atomic_write(args.output) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
