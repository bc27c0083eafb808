"""The server: what it gives away (little), what it refuses, and when it says yes."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from checkout import ROOT
from shapes_study import FIRST, SECOND, make_study, settings

from rocm_core.errors import UserError
from rocm_core.prompts import read_prompts
from rocm_core.study import votes
from rocm_core.study.aggregate import tabulate
from rocm_core.study.build import build
from rocm_core.study.design import QUESTIONS, TIE, Key
from rocm_core.study.server import StudyServer
from rocm_core.study.votes import VoteBook, read_votes

PAIRS = 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"), PAIRS)


@contextlib.contextmanager
def serving(folder):
    with StudyServer(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(study):
    folder, _ = study
    (folder / "votes.jsonl").unlink(missing_ok=True)
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A server whose tests never store a vote."""
    with serving(make_study(tmp_path_factory.mktemp("idle"), PAIRS)[0]) as server:
        yield server
        assert server.votes.count == 0


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def post(server, body, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, content, _ = ask(server, "POST", "/votes", body, {"Content-Type": kind})
    return status, json.loads(content)


def session(server, rater=0):
    status, content, _ = ask(server, "GET", f"/session?rater={server.raters[rater]}")
    assert status == 200
    return json.loads(content)


def make_vote(server, rater=0, index=0, side=1):
    """A vote for the left (1) or right (2) image, or none (0), in a rater's pair."""
    shown = session(server, rater)["order"][index]
    answer = shown[side] if side else TIE
    return {
        "rater": server.raters[rater],
        "pair": shown[0],
        "answers": dict.fromkeys(QUESTIONS, answer),
    }


def stored(study):
    return read_votes(study[0] / "votes.jsonl")


def test_a_vote_is_stored_with_what_was_where_and_the_session_resumes_after_it(server, study):
    assert session(server)["answered"] == [] and len(session(server)["order"]) == PAIRS
    vote = make_vote(server, index=2)
    assert post(server, vote) == (200, {"new": True})
    (line,) = stored(study)
    assert (line.rater, line.pair, line.answers) == tuple(vote.values())
    assert [line.pair, line.left, line.right] == session(server)["order"][2]
    assert session(server)["answered"] == [vote["pair"]] and session(server, 1)["answered"] == []


def test_a_vote_sent_twice_counts_once_even_at_once(server, study):
    vote = make_vote(server)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(server, vote), range(32)))
    assert {status for status, _ in answers} == {200}
    assert sum(answer["new"] for _, answer in answers) == len(stored(study)) == 1
    status, answer = post(server, make_vote(server, side=2))
    assert (status, answer["error"]) == (409, "This pair has been answered before.")
    assert len(stored(study)) == 1


def test_many_raters_vote_at_once_and_every_line_is_whole(server, study):
    ballots = [make_vote(server, r, i, side=r % 3) for r in range(4) for i in range(PAIRS)]
    with ThreadPoolExecutor(8) as pool:
        assert {post(server, vote)[0] for vote in pool.map(lambda v: v, ballots)} == {200}
    assert len(stored(study)) == len(ballots)


def forge(**changes):
    return lambda vote: {**vote, **changes}


FOREIGN = "0" * 32
FORGERIES = {
    "rater": (403, forge(rater="0" * 16)),
    "no rater": (403, forge(rater="")),
    "pair": (404, forge(pair=FOREIGN)),
    "image": (422, lambda v: {**v, "answers": {**v["answers"], "appeal": FOREIGN}}),
    "word": (422, lambda v: {**v, "answers": {**v["answers"], "appeal": "left"}}),
    "question missing": (422, lambda v: {**v, "answers": {"appeal": TIE}}),
    "question added": (422, lambda v: {**v, "answers": {**v["answers"], "more": TIE}}),
    "key added": (400, forge(more=1)),
    "key missing": (400, lambda v: {"rater": v["rater"], "pair": v["pair"]}),
    "number": (400, forge(pair=1)),
    "null answer": (400, lambda v: {**v, "answers": {**v["answers"], "appeal": None}}),
    "answers a list": (400, forge(answers=[])),
    "list": (400, lambda v: [v]),
    "not JSON": (400, lambda v: b"rater=1"),
    "not UTF-8": (400, lambda v: b'{"rater": "\xff"}'),
    "nested": (400, lambda v: b"[" * 4000),
    "key twice": (400, lambda v: json.dumps(v)[:-1].encode() + b', "rater": "x"}'),
    "nothing": (400, lambda v: b""),
    "too long": (413, forge(pair="x" * 5000)),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_vote_is_refused_in_a_sentence_and_not_stored(case, server, study):
    expected, change = FORGERIES[case]
    status, answer = post(server, change(make_vote(server)))
    assert status == expected and answer["error"].endswith(".") and "\n" not in answer["error"]
    assert not stored(study)
    assert post(server, make_vote(server))[0] == 200  # and the server is well


def test_another_pairs_image_is_no_answer(server, study):
    one, other = make_vote(server, index=0), make_vote(server, index=1)
    assert post(server, {**one, "answers": other["answers"]})[0] == 422
    assert not stored(study)


def test_requests_that_are_no_votes_are_refused(server, study):
    body = json.dumps(make_vote(server)).encode()
    assert post(server, body, kind="text/plain")[0] == 415
    assert ask(server, "POST", "/vote", body)[0] == 404
    assert ask(server, "PUT", "/votes", body)[0] == 501
    assert ask(server, "GET", "/session")[0] == ask(server, "GET", "/session?rater=x")[0] == 403
    assert not stored(study)


def exchange(server, data):
    """[(status, content)] of all that comes back for bytes, up to the end of the connection."""
    with socket.create_connection(server.server_address, timeout=10) as raw:
        raw.sendall(data)
        answers = []
        with contextlib.suppress(ConnectionError), raw.makefile("rb") as file:
            while line := file.readline():
                length = int(http.client.parse_headers(file).get("Content-Length", -1))
                answers.append((int(line.split()[1]), file.read(length)))
        return answers


def request(line, body=b"", *headers):
    lines = [line.encode() + b" HTTP/1.1", b"Host: study", *headers]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize("line", ["GET /session?rater={}", "GET /study.css?{}", "POST /session?{}"])
def test_what_a_request_carries_is_never_answered_as_a_request(line, idle):
    """A proxy gives each answer to whoever is next: one too many is another rater's session."""
    mine, anothers, next_ones = idle.raters[:3]
    carried = request(f"GET /session?rater={anothers}")
    answers = exchange(
        idle,
        request(line.format(mine), carried, b"Content-Length: %d" % len(carried))
        + request(f"GET /session?rater={next_ones}", b"", b"Connection: close"),
    )
    alone = exchange(idle, request(line.format(mine), b"", b"Connection: close"))
    assert answers[0] == alone[0]
    following = json.dumps(session(idle, 2)).encode()
    assert [content for _, content in answers[1:]] in ([following], [])
    assert len(answers) == 2 or answers[0][0] == 404  # which closes the connection


def test_the_answer_to_head_has_no_content(idle):
    get, head = (request(f"{method} /study.css") for method in ("GET", "HEAD"))
    end = request("GET /nothing", b"", b"Connection: close")
    with socket.create_connection(idle.server_address, timeout=10) as raw:
        raw.sendall(head + end)
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert received.count(b"HTTP/1.1 ") == 2 and b"progress" not in received
    assert b"progress" in exchange(idle, get + end)[0][1]


CHUNKED = b"Transfer-Encoding: chunked"
LENGTHS = {
    "two": [b"Content-Length: %(n)d", b"Content-Length: 5"],
    "a list": [b"Content-Length: %(n)d, 5"],
    "with chunks": [b"Content-Length: %(n)d", CHUNKED],
    "chunks first": [CHUNKED, b"Content-Length: %(n)d"],
    "only chunks": [CHUNKED],
    "other chunks": [b"Transfer-Encoding: xchunked", b"Content-Length: %(n)d"],
    "chunks twice": [CHUNKED, CHUNKED],
    "negative": [b"Content-Length: -1"],
    "signed": [b"Content-Length: +%(n)d"],
    "exponent": [b"Content-Length: 1e2"],
    "hexadecimal": [b"Content-Length: 0x10"],
    "Arabic digits": ["Content-Length: ٣".encode()],
    "endless": [b"Content-Length: " + b"9" * 30],
    "space": [b"Content-Length : %(n)d"],
    "folded": [b"Content-Length: %(n)d", b" 5"],
    "nothing": [b"Content-Length:"],
}


@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_request_of_doubtful_length_is_refused_and_ends_the_connection(case, version, idle):
    vote = json.dumps(make_vote(idle)).encode()
    carried = request(f"GET /session?rater={idle.raters[1]}")
    headers = [header % {b"n": len(vote)} for header in LENGTHS[case]]
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(vote), vote)
    for body in (vote, chunks, b"0\r\n\r\n" + vote):
        data = request(
            "POST /votes",
            body + carried,
            *(b"Content-Type: application/json", b"Connection: keep-alive", *headers),
        )
        answers = exchange(idle, data.replace(b"HTTP/1.1", b"HTTP/" + version, 1))
        assert [status for status, _ in answers] in ([400], [411])


def slow_clients(stack, server, each):
    """Sockets that are silent, trickle a header or a body, or never read what they asked for."""
    starts = [
        b"",
        b"GET / HTTP/1.1\r\nHost: study\r\nX: ",
        request("POST /votes", b"{", b"Content-Length: 4000"),
        request("GET /session", b"x", b"Content-Length: 4000"),
        request("POST /votes", b"f", CHUNKED),
        request("GET /study.js") * 500,
    ]
    clients = []
    for start in starts * each:
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.server_address)
        client.sendall(start)
        client.setblocking(False)
        clients.append(client)
    return clients


def trickle(clients):
    """One more byte each; the clients that are still connected."""
    connected = []
    for client in clients:
        with contextlib.suppress(ConnectionError):
            with contextlib.suppress(BlockingIOError):
                client.send(b"x")
            connected.append(client)
    return connected


def test_three_hundred_slow_clients_keep_nobody_from_voting(server, study):
    with contextlib.ExitStack() as stack:
        clients = slow_clients(stack, server, 50)
        for index in range(PAIRS):
            clients = trickle(clients)
            assert post(server, make_vote(server, index=index)) == (200, {"new": True})
        assert len(clients) == 300
        server.shutdown()  # although they are still connected
    assert len(stored(study)) == PAIRS


def test_clients_that_take_too_long_are_cut_off(server, monkeypatch):
    monkeypatch.setattr("rocm_core.study.server._Protocol._seconds", 0.5)
    with contextlib.ExitStack() as stack:
        clients = slow_clients(stack, server, 1)
        for _ in range(400):
            clients = trickle(clients)
            time.sleep(0.05 if clients else 0)
        assert not clients
    assert session(server)["answered"] == []


@pytest.mark.parametrize(
    "path",
    [
        *("/key.json", "/secret", "/votes.jsonl", "/page/index.html", "/images", "/images/"),
        *("/../key.json", "/images/../../key.json", "/%2e%2e/key.json", "/..%2fkey.json"),
        *("//etc/passwd", "/\\..\\key.json", "/images/%00.png", "/./index.html", "/INDEX.html"),
    ],
)
def test_only_the_files_of_the_page_are_served(path, idle):
    assert ask(idle, "GET", path)[0] == 404


def test_the_page_is_served_as_built_with_nothing_from_elsewhere_allowed(server, study):
    folder, key = study
    for name in key.files:
        status, content, headers = ask(server, "GET", f"/{name}")
        assert status == 200 and content == (folder / "page" / name).read_bytes()
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
    assert ask(server, "GET", "/?rater=x")[1] == (folder / "page/index.html").read_bytes()
    assert ask(server, "GET", "/study.js")[2]["Content-Type"].startswith("text/javascript")


def test_a_vote_is_on_the_disk_before_the_answer_and_whole_or_not_at_all(
    server, study, monkeypatch, capsys
):
    vote, path, seen = make_vote(server), study[0] / "votes.jsonl", []

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(votes.os, "fsync", full)
    assert post(server, vote)[0] == 507 and path.read_bytes() == b""
    assert session(server)["answered"] == []
    monkeypatch.setattr(votes.os, "fsync", lambda file: seen.append(path.read_bytes()))
    assert post(server, vote) == (200, {"new": True})
    assert seen == [path.read_bytes()] and len(stored(study)) == 1
    assert "could not be stored" in capsys.readouterr().err


def test_a_line_that_a_crash_cut_off_is_forgotten_and_the_rest_kept(study, capsys):
    folder, key = study
    path = folder / "votes.jsonl"
    path.unlink(missing_ok=True)
    rater = next(iter(key.raters))
    book = VoteBook(key, path)
    pairs = [pair for pair, *_ in book.session(rater)["order"]]
    for pair in pairs[:2]:
        vote = {"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, TIE)}
        assert book.record(json.dumps(vote).encode())
    book.close()
    os.truncate(path, path.stat().st_size - 7)
    book = VoteBook(key, path)
    assert "ends with part of a vote, which is dropped: b'{" in capsys.readouterr().err
    assert book.session(rater)["answered"] == pairs[:1]
    assert book.record(json.dumps(vote).encode())
    book.close()
    assert [vote.pair for vote in read_votes(path)] == pairs[:2]
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"votes\.jsonl:1 is not a vote"):
        VoteBook(key, path)
    path.unlink()


def test_a_second_server_and_a_damaged_page_are_refused(server, study, tmp_path):
    with pytest.raises(UserError, match="in use: another server"):
        StudyServer(study[0], port=0)
    folder, _ = make_study(tmp_path, 2)
    with pytest.raises(UserError, match=r"cannot be served .*: choose another"):
        StudyServer(folder, port=server.server_address[1])
    next((folder / "page/images").glob("*.png")).unlink()
    with pytest.raises(UserError, match=r"\.png does not exist: build the study again"):
        StudyServer(folder, port=0)
    (folder / "key.json").unlink()
    with pytest.raises(UserError, match=r"key\.json does not exist: build the study first"):
        StudyServer(folder, port=0)


def older_copy(path, lines):
    path.with_name("older").write_bytes(lines[0])
    path.with_name("older").replace(path)


def same_copy(path, lines):
    path.with_name("copy").write_bytes(b"".join(lines))
    path.with_name("copy").replace(path)


CHANGES = {
    "an older copy": older_copy,
    "another file of the same content": same_copy,
    "deleted": lambda path, lines: path.unlink(),
    "moved": lambda path, lines: path.rename(path.with_name("elsewhere")),
    "emptied": lambda path, lines: os.truncate(path, 0),
    "a line less": lambda path, lines: path.write_bytes(lines[1]),
    "a line more": lambda path, lines: path.write_bytes(b"".join([*lines, lines[0]])),
    "without its end": lambda path, lines: os.truncate(path, path.stat().st_size - 1),
    "another answer": lambda path, lines: path.write_bytes(
        b"".join(lines).replace(b'"tie"', b'"tue"')
    ),
    "a folder": lambda path, lines: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("case", CHANGES)
def test_no_vote_is_lost_when_the_file_is_changed_under_the_server(case, tmp_path, capsys):
    folder, key = make_study(tmp_path, PAIRS)
    path, saved = folder / "votes.jsonl", folder / "votes.acknowledged.jsonl"
    with pytest.raises(UserError, match="no longer what this server wrote"):
        with serving(folder) as server:
            for index in range(2):
                assert post(server, make_vote(server, index=index, side=0))[0] == 200
            acknowledged = path.read_bytes().splitlines(keepends=True)
            CHANGES[case](path, acknowledged)
            for index in (0, 2):  # a vote that was acknowledged before, and a new one
                status, answer = post(server, make_vote(server, index=index, side=0))
                assert (status, answer["error"]) == (503, "Votes cannot be stored at the moment.")
            assert saved.read_bytes().splitlines(keepends=True) == acknowledged
            assert capsys.readouterr().err.count("error: ") == 1
    if path.is_dir():
        path.rmdir()
    left = path.read_bytes() if path.exists() else b""
    if not set(saved.read_bytes().splitlines()) <= set(left.splitlines()):
        for refused in (lambda: VoteBook(key, path), lambda: tabulate(key, path)):
            with pytest.raises(UserError, match="lacks [12] acknowledged votes: add them from"):
                refused()
        path.write_bytes(saved.read_bytes())
    VoteBook(key, path).close()
    assert not saved.exists() and path.read_bytes().splitlines(keepends=True)[:2] == acknowledged


def test_votes_are_saved_even_if_none_follows_and_a_restored_file_is_gone_on_with(server, study):
    path, saved = study[0] / "votes.jsonl", study[0] / "votes.acknowledged.jsonl"
    assert post(server, make_vote(server))[0] == 200
    content = path.read_bytes()
    path.write_bytes(b"")
    for _ in range(400):
        time.sleep(0 if saved.exists() else 0.05)
    assert saved.read_bytes() == content
    assert post(server, make_vote(server, index=1))[0] == 503
    path.write_bytes(content)
    assert post(server, make_vote(server, index=1)) == (200, {"new": True})
    assert len(stored(study)) == 2 and not saved.exists()


def test_a_file_that_is_replaced_while_a_vote_is_written_acknowledges_nothing(
    tmp_path, monkeypatch
):
    folder, key = make_study(tmp_path, PAIRS)
    path, rater = folder / "votes.jsonl", next(iter(key.raters))
    book = VoteBook(key, path)
    pair = book.session(rater)["order"][0][0]
    vote = {"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, TIE)}
    with monkeypatch.context() as patch:
        patch.setattr(votes.os, "fsync", lambda file: path.unlink(missing_ok=True))
        with pytest.raises(votes.Refused, match="cannot be stored at the moment"):
            book.record(json.dumps(vote).encode())
    with pytest.raises(UserError, match="the 1 that it acknowledged"):
        book.close()
    assert [vote.pair for vote in read_votes(folder / "votes.acknowledged.jsonl")] == [pair]


def test_the_last_vote_counts_without_its_newline(tmp_path):
    folder, key = make_study(tmp_path, PAIRS)
    path = folder / "votes.jsonl"
    rater = next(iter(key.raters))
    book = VoteBook(key, path)
    shown = book.session(rater)["order"]
    for pair, *_ in shown[:2]:
        vote = {"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, TIE)}
        book.record(json.dumps(vote).encode())
    book.close()
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 1)
    assert len(read_votes(path)) == 2 and len(tabulate(key, path)) == 2 * len(QUESTIONS)
    book = VoteBook(key, path)
    assert len(book.session(rater)["answered"]) == 2 and path.read_bytes() == whole
    book.record(json.dumps({**vote, "pair": shown[2][0]}).encode())
    book.close()
    assert len(read_votes(path)) == 3


def test_another_study_under_the_server_is_not_mixed_with_the_one_that_it_shows(tmp_path, capsys):
    folder, key = make_study(tmp_path, PAIRS)
    names = ["/", *(f"/{name}" for name in key.files)]
    with serving(folder) as server:
        vote = make_vote(server)
        first, second = (tmp_path / f"samples/{m}/validation/steps-4" for m in (FIRST, SECOND))
        exchanged = {FIRST: second, SECOND: first}
        prompts = read_prompts(tmp_path / "prompts.jsonl")
        rebuilt = build(settings(PAIRS), exchanged, prompts, folder)
        assert rebuilt.study != key.study
        code = server.raters[0]
        for path in [*names, f"/session?rater={code}", *(f"/{name}" for name in rebuilt.files)]:
            assert ask(server, "GET", path)[0] == 503
        assert post(server, vote) == (503, {"error": "The study is being changed."})
        assert capsys.readouterr().err.count("start it again") == 1
        build(settings(PAIRS), {FIRST: first, SECOND: second}, prompts, folder)  # as it was
        assert all(ask(server, "GET", path)[0] == 200 for path in names)
        assert post(server, {"study": key.study, **vote}) == (200, {"new": True})
    build(settings(PAIRS, ties=False), {FIRST: first, SECOND: second}, prompts, folder)
    with serving(folder) as server:  # to a page that is still open, or another server's
        path = f"/session?rater={code}&study={key.study}"
        status, content, _ = ask(server, "GET", path)
        assert status == 410 and b"reload it" in content
        status, answer = post(server, {"study": key.study, **make_vote(server, index=1)})
        assert status == 410 and "reload it" in answer["error"]
        assert ask(server, "GET", path.replace(key.study, Key.read(folder).study))[0] == 200


@pytest.mark.parametrize("name", ["study.js", "material.js", "images"])
def test_only_what_was_built_is_served(name, tmp_path):
    folder, key = make_study(tmp_path, 2)
    damaged = next(file for file in key.files if file.startswith(name))
    with serving(folder) as server:
        (folder / "page" / damaged).write_bytes(b"another")
        assert ask(server, "GET", f"/{damaged}")[0] == 503
    with pytest.raises(UserError, match=f"{damaged} is not what was built: build the study again"):
        StudyServer(folder, port=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_at_a_signal_and_says_what_it_has(number, tmp_path):
    folder, key = make_study(tmp_path, 2)
    command = [sys.executable, "-m", "rocm_core.study", "serve", "--study", folder, "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        links = [process.stdout.readline() for _ in range(1 + len(key.raters))]
        urllib.request.urlopen(links[1].strip()).close()
        if number == signal.SIGTERM:
            (folder / "votes.jsonl").unlink()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == 2 and "no longer what this server wrote" in errors
    else:
        assert (process.returncode, errors) == (0, "")
        assert output == f"0 votes are in {folder / 'votes.jsonl'}\n"


def test_without_ties_a_tie_is_refused(tmp_path):
    folder, key = make_study(tmp_path, 2, ties=False)
    book, rater = VoteBook(key, folder / "votes.jsonl"), next(iter(key.raters))
    pair, left, _ = book.session(rater)["order"][0]
    tie, choice = (
        json.dumps({"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, answer)})
        for answer in (TIE, left)
    )
    with pytest.raises(votes.Refused, match="by one of the pair's images"):
        book.record(tie.encode())
    assert book.record(choice.encode())
    book.close()
