"""`rocm-core COMMAND …`: the commands of this package, wherever it is installed."""

import argparse
import ast
import importlib
import pkgutil
import sys
from pathlib import Path

import rocm_core
from rocm_core import commands
from rocm_core.errors import UserError, run
from rocm_core.plugins import ROOT

_OF_RULES = {"launch", "render"}  # nobody types these
# These need the workflow's rules and scripts whatever there is: to compare with them, to copy them.
_OF_A_CLONE = {"accept", "crate", "verify"}


def names() -> list[str]:
    """The commands, sorted."""
    found = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    return sorted(found - _OF_RULES)


def _about(name: str) -> str:
    """The first sentence of a command's docstring; nothing is imported."""
    source = Path(commands.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split(".\n")[0].splitlines()[0]


def main() -> int | None:
    """Become the command that is named first."""
    listed = "\n".join(f"  {name:14} {_about(name)}" for name in names())
    parser = argparse.ArgumentParser(
        prog="rocm-core",
        description=f"RLHF on consistency models, {rocm_core.__version__}.",
        epilog=f"commands:\n{listed}\n\n`rocm-core COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=rocm_core.__version__)
    parser.add_argument("command", choices=names(), metavar="COMMAND", nargs="?")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.command is None:
        parser.print_help()
        return 0
    if args.command in _OF_A_CLONE and not (ROOT / "workflow").is_dir():
        raise UserError(
            f"rocm-core {args.command} needs the workflow's rules and scripts beside the package:"
            " run it in a clone of the repository, after `pip install -e .` there"
        )
    sys.argv = [f"rocm-core {args.command}", *args.arguments]
    return importlib.import_module(f"rocm_core.commands.{args.command}").main()


def start() -> None:
    """The entry point `rocm-core`."""
    run(main)


if __name__ == "__main__":
    start()
