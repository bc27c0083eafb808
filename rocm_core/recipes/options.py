"""The command line of a recipe, made from the parameters of its `main`."""

import argparse
import functools
import inspect
from collections.abc import Callable
from typing import NoReturn

from rocm_core.errors import run


def run_recipe(main: Callable[..., None]) -> NoReturn:
    """Call `main` with the options of the command line, one for each of its parameters.

    A parameter without a default is a required option; one with a tuple takes several values.
    `--help` prints the docstrings of the recipe's module and of `main`.
    """
    description = f"{main.__globals__['__doc__']} {main.__doc__}"
    parser = argparse.ArgumentParser(description=description)
    for name, parameter in inspect.signature(main).parameters.items():
        option, default = f"--{name.replace('_', '-')}", parameter.default
        if default is parameter.empty:
            parser.add_argument(option, type=parameter.annotation, required=True)
        elif isinstance(default, tuple):
            parser.add_argument(option, type=type(default[0]), default=default, nargs="+")
        else:
            parser.add_argument(option, type=parameter.annotation, default=default)
    run(functools.partial(main, **vars(parser.parse_args())))
