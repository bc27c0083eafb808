"""Snakemake for tests: a process that has imported it once forks for every command line.

Each line on stdin is a JSON object with `arguments`, `folder` and the paths `stdout` and `stderr`;
each line on stdout is the exit status. A fork imports the library of its folder anew, as
`snakemake` there would; what is saved is the import of Snakemake, half of a dry-run's time.
"""

import json
import os
import sys

from snakemake import cli


def run(job: dict) -> int:
    os.chdir(job["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["snakemake", *job["arguments"]]
    try:
        cli.main(job["arguments"])
    except SystemExit as end:
        if isinstance(end.code, str):  # as the interpreter would show it
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


for line in sys.stdin:
    child = os.fork()
    if not child:
        status = 1
        try:
            status = run(json.loads(line))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
