"""Numbers in environment variables, which anybody may have set to anything."""

import os
import sys


def whole_number(variable: str, most: int = 2**40) -> int | None:
    """The variable's value from 1 to `most`, or None where it is not set, or set to anything else,
    which is named on stderr. Of a list as OpenMP has it, one number per level, it is the first."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    first = text.partition(",")[0].strip()
    if first.isascii() and first.isdigit() and 0 < int(first) <= most:
        return int(first)
    print(f"{variable} is {text!r}, not a whole number from 1: it is ignored", file=sys.stderr)
    return None
