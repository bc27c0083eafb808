"""Prompt lists as they are published: text, JSON, JSON lines, CSV, TSV and Parquet."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.prompts.prompt import Prompt, clean, decode, lines_of, read_prompts

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
# What prompts are called in Pick-a-Pic, in HPSv2 and PartiPrompts, and here.
COLUMNS = ("caption", "prompt", "text")

_TABLES = (".json", ".csv", ".tsv", ".parquet")


def read_list(path: str, column: str | None = None) -> list[Prompt]:
    """All prompts of a file of any kind, cleaned; those without an id are numbered.

    column: which column of a table or key of an object holds them; None: the first of `COLUMNS`.
    Raises `UserError` with the place in the file for anything that is not a prompt.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is not a prompt list: it must end in {' or '.join(SUFFIXES)}")
    if column and suffix not in _TABLES:
        raise UserError(f"{path} has no columns: remove the key column ({column})")
    if suffix == ".jsonl":
        return read_prompts(path)
    reader = {".json": _json, ".parquet": _parquet}.get(suffix, _csv)
    entries = lines_of(path) if suffix == ".txt" else reader(path, column)
    texts = [clean(text, place) for place, text in entries]
    if not texts:
        raise UserError(f"{path} holds no prompts")
    return number(texts, Path(path).name)


def number(texts: Iterable[str], source: str, prefix: str = "") -> list[Prompt]:
    """Prompts with consecutive numbers as ids."""
    return [Prompt(f"{prefix}{index:05d}", text, source) for index, text in enumerate(texts)]


def normalise(text: str) -> str:
    """Key under which prompts that differ in case, punctuation, spacing or width compare equal."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded).split()
    return " ".join(words) or folded


def _json(path: str, column: str | None) -> Iterator[tuple[str, Any]]:
    """The prompts of a list of texts or objects, or of several such lists by name."""
    try:
        entries = json.loads(decode(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if isinstance(entries, dict) and all(isinstance(part, list) for part in entries.values()):
        entries = [entry for part in entries.values() for entry in part]
    if not isinstance(entries, list):
        raise UserError(f"{path} must be a list of prompts, or several by name")
    for index, entry in enumerate(entries, 1):
        place = f"{path}: entry {index}"
        if isinstance(entry, dict):
            entry = entry[_choose(entry, column, place)]
        yield place, entry


def _csv(path: str, column: str | None) -> Iterator[tuple[str, str]]:
    """Quotes delimit a field in CSV; in TSV, as in PartiPrompts, they are part of the text."""
    kind: Mapping[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        if path.endswith(".tsv")
        else {"delimiter": ",", "strict": True}
    )
    rows = csv.reader(io.StringIO(decode(path), newline=""), **kind)
    try:
        header = next(rows, [])
        index = header.index(_choose(header, column, path))
        for row in filter(None, rows):
            place = f"{path}:{rows.line_num}"
            if len(row) != len(header):
                raise UserError(f"{place}: {len(row)} fields, but the header names {len(header)}")
            yield place, row[index]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not valid CSV: {error}") from None


def _parquet(path: str, column: str | None) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        name = _choose(names, column, path)
        texts = parquet.read_table(path, columns=[name]).column(name).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from None
    yield from ((f"{path}: row {index}", text) for index, text in enumerate(texts, 1))


def _choose(names: Iterable[str], column: str | None, place: str) -> str:
    """The name of the column that holds the prompts."""
    names = list(names)
    known = [column] if column else COLUMNS
    for wanted in known:
        for name in names:
            if name == wanted or not column and name.lower() == wanted:
                return name
    raise UserError(
        f"{place} has no column {' or '.join(known)}, but {', '.join(names)[:200] or 'none'}:"
        " name the one that holds the prompts in the key column"
    )
