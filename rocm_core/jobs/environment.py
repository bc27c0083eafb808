"""Numbers in environment variables, which anybody may have set to anything."""

import os
import re
import sys


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
