"""Prompt sets: made from a world or a file, kept as one JSON object a line."""

import json
import os
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.provenance import atomic_write
from rocm_core.schema import did_you_mean
from rocm_core.settings import PromptSettings

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Prompt:
    """A prompt. `id` names its image's file and seeds its noise; `source` says where it is from."""

    id: str
    text: str
    source: str


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a .jsonl file: objects with id, text and, if they like, source.

    Raises `UserError` with file and line for a line that is broken, empty or repeats an id.
    """
    prompts: dict[str, Prompt] = {}
    for place, line in _lines(path):
        prompt = _parse_line(line, place, Path(path).name)
        if prompt.id in prompts:
            raise UserError(f"{place}: the id {prompt.id!r} is given twice: ids must differ")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{path} holds no prompts")
    return list(prompts.values())


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as `read_prompts` reads them, atomically."""
    lines = (json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    with atomic_write(path) as file:
        file.write("".join(lines).encode())


def make_prompts(settings: PromptSettings, exclude: Sequence[Prompt] = ()) -> list[Prompt]:
    """The prompt set that `settings` describe, none of them in `exclude` unless it may overlap.

    A world avoids the excluded captions. A file that shares one with them raises `UserError`: a
    model must not be validated on what it was trained on.
    """
    exclude = () if settings.overlap else exclude
    if settings.source == "shapes":
        from rocm_core.shapes.scenes import sample_captions

        texts = sample_captions(
            _count(settings),
            settings.seed,
            [p.text for p in exclude],
            unseen=settings.held_out,
            keep=lambda text: _is_wanted(text, settings),
        )
        return _number(texts, "shapes")
    prompts = _sample(_read_source(settings.source), settings)
    _check_disjoint(prompts, exclude, settings.source)
    return prompts


def check_sources(
    prompts: Mapping[str, PromptSettings], worlds: Collection[str], trained: Collection[str]
) -> None:
    """Raise `UserError` for prompt sets that cannot be made, as far as can be told now: a file that
    does not exist yet is left to the job that reads it. `trained`: sets that models train on."""
    learned: list[Prompt] = []
    for name, settings in sorted(prompts.items(), key=lambda item: item[0] not in trained):
        key = f"prompts.{name}"
        if shared := sorted(set(settings.containing) & set(settings.without)):
            raise UserError(f"{key} wants the word {shared[0]} and does without it: remove one")
        if settings.source in worlds:
            _check_words(settings, key)
            if settings.count is None:
                raise UserError(f"{key}.count is missing: how many prompts to draw from the world")
            continue
        if Path(settings.source).suffix not in _READERS:
            known = ", ".join([*sorted(worlds), *(f"a {suffix} file" for suffix in _READERS)])
            raise UserError(f"{key}.source must be {known}, not {settings.source!r}")
        if settings.held_out:
            raise UserError(f"{key}.held_out is for an embedded world's prompts: remove it")
        if os.path.exists(settings.source):  # False, not an error, for an impossible path
            made = make_prompts(settings, () if name in trained else learned)
            learned += made if name in trained else []


def _check_words(settings: PromptSettings, key: str) -> None:
    from rocm_core.shapes.words import WORDS

    for place in ("containing", "without"):
        for word in getattr(settings, place):
            if word not in WORDS:
                raise UserError(
                    f"{key}.{place}: no caption of the world {settings.source} has the word"
                    f" {word!r}{did_you_mean(word, sorted(WORDS))}"
                )


def _is_wanted(text: str, settings: PromptSettings) -> bool:
    """Has the prompt one of the words it is to contain, and none of those it must do without?"""
    words = set(re.findall(r"\w+", text.casefold()))
    wanted = {word.casefold() for word in settings.containing}
    refused = {word.casefold() for word in settings.without}
    return not words & refused and bool(not wanted or words & wanted)


def _count(settings: PromptSettings) -> int:
    if settings.count is None:
        raise UserError(f"the source {settings.source!r} needs a count of prompts")
    return settings.count


def _sample(prompts: list[Prompt], settings: PromptSettings) -> list[Prompt]:
    """`count` of them, drawn by the seed, in the order of the file."""
    prompts = [prompt for prompt in prompts if _is_wanted(prompt.text, settings)]
    count = len(prompts) if settings.count is None else settings.count
    if count > len(prompts):
        raise UserError(
            f"{settings.source} has {len(prompts)} different prompts, not {count}: lower the count"
        )
    if not prompts:
        raise UserError(f"{settings.source} has no prompt with the words that are asked for")
    chosen = random.Random(settings.seed).sample(range(len(prompts)), count)
    return [prompts[i] for i in sorted(chosen)]


def _check_disjoint(prompts: list[Prompt], exclude: Sequence[Prompt], source: str) -> None:
    others = {_normal(prompt.text) for prompt in exclude}
    shared = [prompt.text for prompt in prompts if _normal(prompt.text) in others]
    if shared:
        raise UserError(
            f"{source} shares {len(shared)} prompts with the training prompts, the first is"
            f" {shared[0][:80]!r}: remove them from one of the two, or allow them by overlap: true"
        )


def _normal(text: str) -> str:
    """Prompts that differ in case or spacing only are one prompt."""
    return " ".join(text.casefold().split())


def _number(texts: Iterable[str], source: str) -> list[Prompt]:
    return [Prompt(f"{index:05d}", text, source) for index, text in enumerate(texts)]


def _read_source(path: str) -> list[Prompt]:
    """All different prompts of a list; of those equal but for case and spacing, the first."""
    suffix = Path(path).suffix
    if suffix not in _READERS:
        raise UserError(f"{path} is no prompt list: it must end in {' or '.join(_READERS)}")
    first: dict[str, Prompt] = {}
    for prompt in _READERS[suffix](path):
        first.setdefault(_normal(prompt.text), prompt)
    return list(first.values())


def _read_text(path: str) -> list[Prompt]:
    texts = [_clean(line, place) for place, line in _lines(path)]
    if not texts:
        raise UserError(f"{path} holds no prompts")
    return _number(texts, Path(path).name)


def _read_json(path: str) -> list[Prompt]:
    try:
        texts = json.loads(_decode(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{path} must be a list of prompts")
    texts = [text.get("caption") if isinstance(text, dict) else text for text in texts]
    cleaned = [_clean(text, f"{path}: entry {index}") for index, text in enumerate(texts, 1)]
    return _number(cleaned, Path(path).name)


def _read_parquet(path: str) -> list[Prompt]:
    import pyarrow
    from pyarrow import parquet

    try:
        texts = parquet.read_table(path, columns=["caption"]).column("caption").to_pylist()
    except (OSError, KeyError, IndexError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is no Parquet file with a column caption: {error}") from None
    cleaned = [_clean(text, f"{path}: row {index}") for index, text in enumerate(texts, 1)]
    return _number(cleaned, Path(path).name)


_READERS = {
    ".txt": _read_text,
    ".json": _read_json,
    ".jsonl": read_prompts,
    ".parquet": _read_parquet,
}


def _parse_line(line: str, place: str, source: str) -> Prompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f'{place}: not a JSON object such as {{"id": "1", "text": "a cat"}}')
    identity = entry.get("id")
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise UserError(
            f"{place}: the id must be a text of letters, digits, . _ and -, not {identity!r:.60}"
        )
    origin = entry.get("source", source)
    return Prompt(identity, _clean(entry.get("text"), place), str(origin))


def _clean(text: Any, place: str) -> str:
    """A prompt on one line, spaces trimmed."""
    if not isinstance(text, str):
        raise UserError(f"{place}: a prompt must be a text, not {text!r:.60}")
    cleaned = " ".join(text.split())
    if not cleaned:
        raise UserError(f"{place}: the prompt is empty: write it or remove the line")
    try:
        cleaned.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: the prompt holds half a surrogate pair: mend it") from None
    return cleaned


def _lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:number", line) of each line; blank lines at the end do not count."""
    lines = _decode(path).rstrip().split("\n")
    if lines != [""]:
        yield from ((f"{path}:{number}", line) for number, line in enumerate(lines, 1))


def _decode(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it or correct the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8: save it as UTF-8") from None
