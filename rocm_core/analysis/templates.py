"""How pages of text are made: templates beside the module that fills them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def environment(folder: Path, **filters: Callable[..., Any]) -> jinja2.Environment:
    """The templates in a folder. Those that end in .html.j2 escape what they are given; a name
    that they are not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= filters
    return made
