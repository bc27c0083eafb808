"""Environment variables: those that jobs are given, and numbers that anybody may have set."""

import os
import re
import sys
from pathlib import Path

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT


def whole_number(variable: str, most: int = 2**40) -> int | None:
    """The variable's value from 1 to `most`, or None where it is not set, or set to anything else,
    which is named on stderr. Of a list as OpenMP has it, one number per level, it is the first."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    number = re.fullmatch(r"([0-9]{1,15})\s*(,.*)?", text)
    if number and 0 < int(number[1]) <= most:
        return int(number[1])
    print(f"{variable} is {text!r}, not a number from 1 to {most}: it is ignored", file=sys.stderr)
    return None


def require_workplace() -> None:
    """Raise `UserError` where Snakemake cannot keep its records in the working directory."""
    records = Path(".snakemake")
    if not os.access(records if records.exists() else records.parent, os.W_OK):
        raise UserError(
            f"{Path.cwd()} is closed to writing, and Snakemake keeps its records there: start it"
            f" in a folder of your own, with -s {ROOT}/Snakefile"
        )


def job_environment(tell: bool) -> dict[str, str]:
    """What every job of the workflow finds in its environment beside what is there.

    tell: say on stderr where nothing can be cached between jobs.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        caches.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if tell:
            print(
                f"{caches} cannot be made ({error.strerror}), so that nothing is cached between"
                " jobs: set XDG_CACHE_HOME to a folder that can",
                file=sys.stderr,
            )
    paths = {
        "PATH": [os.path.dirname(sys.executable), os.environ.get("PATH")],
        # The user's own packages, whose rewards and algorithms may be named, come second.
        "PYTHONPATH": [str(ROOT), os.environ.get("PYTHONPATH")],
    }
    return {name: os.pathsep.join(filter(None, places)) for name, places in paths.items()} | {
        "PYTHONSAFEPATH": "1",  # another checkout's library in the working folder is not imported
        "SCRIPTS": f"{ROOT}/workflow/scripts",
        "OMP_WAIT_POLICY": "passive",  # waiting OpenMP threads sleep: jobs share the cores
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",  # figures are files, whatever the shell has set
    }
