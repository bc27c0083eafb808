"""Errors that are the user's to mend: one sentence, no traceback, exit status 2."""

import contextlib
import errno
import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES}


class UserError(Exception):
    """Bad input, said in one sentence that names the file or key and the fix."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


@functools.cache
def warn(message: str) -> None:
    """Say on stderr what the user may want to know, once per process."""
    print(f"warning: {message}", file=sys.stderr)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and leave with its exit status; a `UserError`, a disk that is full or closed to
    us, or a missing package of an extra prints one line to stderr and exits with 2; a reader who
    has seen enough, as in `… | head`, ends it silently. Other exceptions keep their traceback."""
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if not (extra := _extra_with(_package(error))):
            raise
        message = f"{_package(error)} is not installed: pip install 'rocm-core[{extra}]'"
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(1)
        message = _unusable(error)
    else:
        sys.exit(status)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Inside, a `UserError`, or a disk that is full or closed to us, ends Snakemake in one line."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {_unusable(error)}")


def _unusable(error: OSError) -> str:
    """What to say of a disk that is full or closed to us; raises any other error again."""
    if error.errno not in _FULL | _CLOSED:
        raise error
    path = error.filename
    if isinstance(path, str) and error.errno in _CLOSED:
        while not os.path.lexists(path):  # it is the folder that lets nobody make it
            path = os.path.dirname(path) or os.getcwd()
    return f"{path or 'a file'} cannot be used: {error.strerror}"


def _nobody_reads() -> bool:
    """Whether it is standard output that is closed; then nothing more is written there, not even
    by the interpreter as it exits."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _package(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]


def _extra_with(package: str) -> str | None:
    """The extra of this package that brings another."""
    try:
        wanted = importlib.metadata.requires("rocm-core") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (re.match(rf"{re.escape(package)}\b.*extra == .(\w+)", w, re.I) for w in wanted)
    return next((match[1] for match in found if match), None)
