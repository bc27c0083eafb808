"""A `python` for tests that starts in no time: a fork of a process that has imported what is large.

`python -P tests/forking_python.py FOLDER` writes FOLDER/python and serves it until its stdin ends.
What that is called with runs as in a new interpreter, in the caller's folder, environment and open
files: the library is imported anew, from where PYTHONPATH says; that of others is there already,
which takes most of a job's time. Signals to the caller are not passed on.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import traceback
from pathlib import Path

LARGE = {
    "accelerate": (),
    "diffusers": ("AutoencoderKL", "DDIMScheduler", "LCMScheduler", "UNet2DConditionModel"),
    "matplotlib.pyplot": (),
    "open_clip": (),
    "pandas": (),
    "peft": (),
    "snakemake.cli": (),
    "torch._dynamo": (),
    "transformers": (
        *("AutoTokenizer", "BertModel", "BlipForImageTextRetrieval", "CLIPModel"),
        *("CLIPTextModel", "CLIPTokenizer", "CLIPVisionModelWithProjection"),
    ),
}
CALLER = """\
#!{executable} -ISE
import json, os, socket, sys
files = [number for number in range(4) if os.path.exists(f"/proc/self/fd/{{number}}")]
call = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
call = json.dumps(call).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"%8d" % len(call)], files)
    server.sendall(call)
    sys.exit(int(server.recv(8) or 1))
"""


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Run `-m module …` or `script.py …` as the interpreter does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    start, first = runpy.run_path, os.path.dirname(arguments[0])
    if arguments[0] == "-m":
        arguments, start, first = arguments[1:], runpy.run_module, folder
    places[:0] = [] if environment.get("PYTHONSAFEPATH") else [first]
    sys.path[:0], sys.argv = places, arguments
    try:
        start(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def answer(connection: socket.socket) -> None:
    """Run what is asked for in another fork, and say how it ended."""
    size, files, _, _ = socket.recv_fds(connection, 8, 4)
    call = json.loads(connection.makefile("rb").read(int(size)))
    child = os.fork()
    if not child:
        status = 1
        try:
            for number, file in enumerate(files):
                os.dup2(file, number)
            status = run(**call)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(b"%d" % (status if status >= 0 else 128 - status))


def main(folder: Path) -> None:
    import rocm_core  # noqa: F401  (before torchvision is imported, which it repairs)

    for name, parts in LARGE.items():
        module = importlib.import_module(name)
        for part in parts:
            getattr(module, part)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rocm_core"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    address, caller = str(folder / "socket"), folder / "python"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    written = folder / "written"
    written.write_text(CALLER.format(executable=sys.executable, address=address))
    written.chmod(0o755)
    written.rename(caller)
    sys.executable = str(caller)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            try:
                listener.close()
                answer(connection)
            finally:
                os._exit(0)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
