"""Finished parts of a job, kept from Snakemake, which removes outputs when a job starts or fails.

What keeps a file is a second name of it (a hard link) in a hidden folder beside it.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

_KEPT = ".kept"


def keep(files: Iterable[Path]) -> None:
    """Keep these files, as they are now, for the next job in their folders."""
    for file in files:
        kept = file.parent / _KEPT / file.name
        kept.parent.mkdir(exist_ok=True)
        kept.unlink(missing_ok=True)
        _link(file, kept)


def restore(files: Iterable[Path]) -> None:
    """Bring back those of these files that were kept and removed. Whether they are what a job would
    make again is for it to find out."""
    for file in files:
        kept = file.parent / _KEPT / file.name
        if kept.is_file() and not file.exists():
            _link(kept, file)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a file system without hard links
        shutil.copy2(file, name)
