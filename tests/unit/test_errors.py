"""Bad input ends in one sentence and exit status 2; everything else as Python does it."""

import errno
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import pytest
from checkout import ROOT

from rocm_core.errors import UserError, run, told


def leave(main, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(main)
    return exit_.value.code, capsys.readouterr().err


def test_a_user_error_is_one_line_on_stderr_and_exit_status_2(capsys):
    def main():
        raise UserError("prompts.jsonl:3: the prompt\n is empty:  write it")

    assert leave(main, capsys) == (2, "error: prompts.jsonl:3: the prompt is empty: write it\n")


def test_a_full_disk_is_said_without_a_traceback(capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "lora.safetensors")

    status, message = leave(main, capsys)
    assert status == 2
    assert message == "error: lora.safetensors cannot be used: No space left on device\n"


@pytest.mark.parametrize("file", ["results/demo/.history.csv.tmp", "history.csv"])
def test_a_folder_that_is_closed_to_us_is_named(file, capsys, tmp_path, monkeypatch):
    """Not a file in it that does not exist, least of all a temporary one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()

    def main():
        raise PermissionError(errno.EACCES, "Permission denied", file)

    folder = "results" if "/" in file else tmp_path
    said = f"error: {folder} cannot be used: Permission denied"
    assert leave(main, capsys) == (2, f"{said}\n")
    with pytest.raises(SystemExit, match=re.escape(said)), told():  # in the Snakefile
        main()


def test_a_bug_keeps_its_traceback_in_the_snakefile_too():
    with pytest.raises(FileNotFoundError), told():
        raise FileNotFoundError(errno.ENOENT, "gone")


@pytest.mark.parametrize(("returned", "status"), [(None, None), (0, 0), (3, 3)])
def test_the_exit_status_is_what_main_returns(returned, status, capsys):
    assert leave(lambda: returned, capsys) == (status, "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        FileNotFoundError(errno.ENOENT, "gone"),
        ModuleNotFoundError("a slip", name="rocm_core.slip"),
    ],
)
def test_a_bug_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run(main)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_who_leaves_early_ends_a_command_silently(lines):
    code = f"from rocm_core.errors import run; run(lambda: print('a line\\n' * {lines}))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_another_broken_pipe_keeps_its_traceback():
    code = "def main(): raise BrokenPipeError(32, 'a worker')\n"
    code += "from rocm_core.errors import run\nrun(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "BrokenPipeError: [Errno 32] a worker" in done.stderr


@pytest.mark.parametrize(("module", "extra"), [("rocrate.rocrate", "crate"), ("rich", "workflow")])
def test_a_package_of_an_extra_is_named_with_it(module, extra, capsys, monkeypatch):
    """By the metadata of the package, which here are those that pyproject.toml has now."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    listed = [f'{line}; extra == "{name}"' for name, lines in extras.items() for line in lines]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=2.2", *listed])

    def main():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    status, message = leave(main, capsys)
    assert status == 2
    package = module.partition(".")[0]
    assert message == f"error: {package} is not installed: pip install 'rocm-core[{extra}]'\n"
