"""Errors that are the user's to mend: one sentence, no traceback, exit status 2."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


class UserError(Exception):
    """Bad input, said in one sentence that names the file or key and the fix."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


@functools.cache
def warn(message: str) -> None:
    """Say on stderr what the user may want to know, once per process."""
    print(f"warning: {message}", file=sys.stderr)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and leave with its exit status; a `UserError`, or a disk that is full or closed
    to us, prints one line to stderr and exits with 2; a reader who has seen enough, as in
    `… | head`, ends it silently. Other exceptions keep their traceback."""
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        message = str(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(1)
        if error.errno not in _DISK:
            raise
        message = f"{error.filename or 'a file'} cannot be used: {error.strerror}"
    else:
        sys.exit(status)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _nobody_reads() -> bool:
    """Whether it is standard output that is closed; then nothing more is written there, not even
    by the interpreter as it exits."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
