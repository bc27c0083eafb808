"""Prompts and their files: one JSON object per line, read by every stage."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.provenance import atomic_write

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Prompt:
    """A prompt. `id` names its image's file and seeds its noise; `source`: where it comes from."""

    id: str
    text: str
    source: str


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a .jsonl file: objects with id, text and, optionally, source.

    Raises `UserError` with file and line for a line that is broken or empty or repeats an id.
    """
    prompts: dict[str, Prompt] = {}
    for place, line in lines_of(path):
        prompt = _parse_line(line, place, Path(path).name)
        if prompt.id in prompts:
            raise UserError(f"{place}: the id {prompt.id!r} is given twice: ids must differ")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{path} holds no prompts")
    return list(prompts.values())


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts atomically, in the format of `read_prompts`."""
    lines = (json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    with atomic_write(path) as file:
        file.write("".join(lines).encode())


def clean(text: Any, place: str) -> str:
    """A prompt in Unicode's composed form on one line, without control characters, byte order marks
    and surrounding spaces; a space of any other kind becomes a plain one. Joiners, variation
    selectors and marks of direction stay: emoji, Persian and Hebrew are written with them.

    Raises `UserError` for anything that is not a text or shows nothing afterwards."""
    if not isinstance(text, str):
        raise UserError(f"{place}: a prompt must be text, not {text!r:.60}")
    text = text.replace("\ufeff", "")
    text = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    cleaned = unicodedata.normalize("NFC", " ".join(text.split()))
    if is_blank(cleaned):
        raise UserError(f"{place}: the prompt is empty: write it or remove the line")
    try:
        cleaned.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: the prompt contains half of a surrogate pair: correct it"
        ) from None
    return cleaned


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it has spaces, control and formatting characters at most."""
    return {"Cc", "Cf", "Zl", "Zp", "Zs"}.issuperset(map(unicodedata.category, text))


def lines_of(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:number", line) of each line of a text, without trailing blank lines."""
    lines = re.split("\r\n?|\n", decode(path).rstrip())
    if lines != [""]:
        yield from ((f"{path}:{number}", line) for number, line in enumerate(lines, 1))


def decode(path: str | Path) -> str:
    """The text of a UTF-8 file; raises `UserError` with the line that is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it or correct the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8: save it as UTF-8") from None


def identify(identity: Any, place: str) -> str:
    """An id; raises `UserError` for one that cannot name an image's file."""
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise UserError(
            f"{place}: the id must be text made of letters, digits, . _ and -, not {identity!r:.60}"
        )
    return identity


def _parse_line(line: str, place: str, source: str) -> Prompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f'{place}: not a JSON object such as {{"id": "1", "text": "a cat"}}')
    identity = identify(entry.get("id"), place)
    return Prompt(identity, clean(entry.get("text"), place), str(entry.get("source", source)))
