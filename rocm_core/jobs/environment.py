"""Environment variables: those that jobs are given, and numbers that anybody may have set."""

import getpass
import os
import re
import shutil
import socket
import subprocess
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


def require_account(named: bool) -> None:
    """Raise `UserError`, once, where Slurm's executor would fail on every job and its retries: it
    asks `sacctmgr`, or else `sshare`, whether the account of a job exists if one is `named`, and
    `sacct` which it may be if none is."""
    remedy = "docs/cluster.md says what to put in its place"
    program = "sacctmgr" if named else "sacct"
    if shutil.which(program) is None:
        raise UserError(
            f"{program}, which Slurm's executor asks for the account of a job, is not on the PATH"
            f" of {socket.gethostname()}: {remedy}"
        )
    if named:
        user = getpass.getuser()
        asked = subprocess.run(
            ["sacctmgr", "-n", "-s", "list", "user", user], capture_output=True, text=True
        )
        if asked.returncode and not (
            shutil.which("sshare")
            and subprocess.run(["sshare", "-U", "--noheader"], capture_output=True).returncode == 0
        ):
            said = asked.stderr.strip().splitlines()
            raise UserError(
                "sacctmgr, which Slurm's executor asks for the account of every job, fails"
                f" ({said[-1] if said else asked.returncode}), and so does sshare: remove"
                f" slurm_account from the profile if the site has no accounts, or {remedy}"
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
