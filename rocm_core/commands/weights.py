"""The paper's weights: what is needed from where, fetched once, and held to `weights.lock`.

`--list` shows the table, `--fetch` fetches what is missing, `--check` hashes everything again,
`--record PATH` takes local files into the lock.
"""

import argparse

from rocm_core.errors import run
from rocm_core.grid import load_config, needed
from rocm_core.provenance import LOCK
from rocm_core.weights import check_all, describe, fetch, record, table


def main() -> int:
    """Do what is asked for; returns 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is needed (the default)")
    what.add_argument("--fetch", action="store_true", help="fetch what is missing")
    what.add_argument("--check", action="store_true", help="hash every file again")
    what.add_argument("--record", nargs="+", metavar="PATH", help="take local files into the lock")
    parser.add_argument("--configfile", help="what this configuration needs, not the whole table")
    arguments = parser.parse_args()
    config = load_config(arguments.configfile) if arguments.configfile else None
    paths = needed(config) if config else list(table())
    if arguments.record:
        record(arguments.record)
    elif arguments.fetch:
        for path in paths:
            fetch(path, *((config.weights.endpoint, config.weights.mirror) if config else ()))
    elif arguments.check:
        problems = [*check_all(paths)]
        print("\n".join(problems) or f"{len(paths)} files are as {LOCK} lists them")
        return 1 if problems else 0
    else:
        print(describe(paths))
    return 0


if __name__ == "__main__":
    run(main)
