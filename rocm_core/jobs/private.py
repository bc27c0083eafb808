"""Folders of this user alone, among the temporary files that all users of a machine share."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from rocm_core.errors import UserError


def private_folder(purpose: str) -> Path:
    """The folder <purpose>-<user id>, the same for all of this user's processes.

    Raises `UserError` for one that somebody else has prepared, or could write to.
    """
    try:
        path = Path(tempfile.gettempdir(), f"{purpose}-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        found = path.lstat()
    except OSError as error:
        raise UserError(
            f"no folder for temporary files can be used ({error.strerror}): set TMPDIR to one"
        ) from None
    open_to_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or open_to_others:
        raise UserError(
            f"{path} is not a folder that only this user can write to, so that somebody else may"
            " have prepared it: remove it, or set TMPDIR to a folder of your own"
        )
    path.chmod(0o700)  # who can open a file can lock it
    return path
