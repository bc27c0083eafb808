"""Making prompt sets: from a world, from lists, or from the configuration itself.

Lists are read as they are published: text, JSON, JSON lines, CSV, TSV and Parquet.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocm_core.errors import UserError, warn
from rocm_core.plugins import did_you_mean
from rocm_core.prompts.prompt import Prompt, clean, decode, identify, is_blank, lines_of
from rocm_core.provenance import located
from rocm_core.reading import parse_json
from rocm_core.weights import table

if TYPE_CHECKING:  # the environment of the published scorers has no pydantic
    from rocm_core.configuration import PromptSettings

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
# What prompts are called in Pick-a-Pic, in HPSv2 and PartiPrompts, and here.
COLUMNS = ("caption", "prompt", "text")
_FIELD = re.compile(r"\{(\w+)(:a)?\}")


def make_prompts(settings: PromptSettings, exclude: Sequence[Prompt] = ()) -> list[Prompt]:
    """The prompt set that `settings` describe, in the order of its sources, without those of
    `exclude`, the prompts that models are trained on, unless the set may overlap.

    A world avoids them. A list that contains one, whatever its case and punctuation, raises
    `UserError` or drops it: a model must not be evaluated on what it was trained on.
    """
    exclude = () if settings.overlap == "allow" else exclude
    if settings.source == "shapes":
        from rocm_core.shapes.scenes import sample_captions

        if not isinstance(settings.count, int):
            raise UserError(f"the source {settings.source!r} needs a count of prompts")
        texts = sample_captions(
            settings.count,
            settings.seed,
            [p.text for p in exclude],
            unseen=settings.held_out,
            keep=lambda text: _is_wanted(text, settings),
        )
        return number(texts, "shapes")
    learned = {normalise(prompt.text) for prompt in exclude}
    parts = [
        (name, [prompt for prompt in part if _is_wanted(prompt.text, settings)])
        for name, part in _distinct(_read(settings), settings.duplicates == "normalised").items()
    ]
    if settings.overlap == "drop":
        parts = [
            (name, [p for p in part if normalise(p.text) not in learned]) for name, part in parts
        ]
    chosen = [prompt for name, part in parts for prompt in _sample(name, part, settings)]
    if shared := [prompt.text for prompt in chosen if normalise(prompt.text) in learned]:
        raise UserError(
            f"{source_name(settings)} shares {len(shared)} prompts with the training prompts, the"
            f" first is {shared[0][:80]!r}: drop them with overlap: drop, or keep them with"
            " overlap: allow"
        )
    return chosen


def prompt_lists(settings: PromptSettings) -> dict[str, tuple[str, ...]]:
    """The files of each list by its name, which is empty where there is only one; or the prompts
    themselves."""
    if isinstance(settings.source, dict):
        given = settings.source.items()
        return {name: (files,) if isinstance(files, str) else files for name, files in given}
    return {"": settings.source if isinstance(settings.source, tuple) else (settings.source,)}


def prompt_files(settings: PromptSettings) -> list[str]:
    """All files of the lists; the name of an embedded world is among them."""
    if isinstance(settings.source, tuple):
        return []
    return [file for part in prompt_lists(settings).values() for file in part]


def source_name(settings: PromptSettings) -> str:
    """The source of prompts in a sentence."""
    return ", ".join(prompt_files(settings)) or "prompts"


def prompt_count(settings: PromptSettings) -> int | None:
    """The number of prompts, if the settings tell."""
    return sum(settings.count.values()) if isinstance(settings.count, dict) else settings.count


def check_sources(
    prompts: Mapping[str, PromptSettings], worlds: Collection[str], trained: Collection[str]
) -> None:
    """Raise `UserError` for prompt sets that cannot be made, as far as is known: a file that does
    not exist yet is left to the job that reads it. `trained`: sets that models train on."""
    learned: list[Prompt] = []
    for name, settings in sorted(prompts.items(), key=lambda item: item[0] not in trained):
        key = f"prompts.{name}"
        if shared := sorted(set(settings.containing) & set(settings.without)):
            raise UserError(
                f"{key} has the word {shared[0]} in both containing and without: remove one"
            )
        if settings.source in worlds:
            _check_words(settings, key)
            if settings.count is None:
                raise UserError(f"{key}.count is missing: how many prompts to draw from the world")
            continue
        _check_lists(settings, key, worlds)
        benchmark = next(
            (f for f in prompt_files(settings) if f in table() and table()[f].benchmark), None
        )
        if benchmark and name in trained:
            raise UserError(
                f"{key}.source: {benchmark} is a benchmark, which must not be trained on"
            )
        if all(located(file).is_file() for file in prompt_files(settings)):
            made = make_prompts(settings, () if name in trained else learned)
            learned += made if name in trained else []


def _check_lists(settings: PromptSettings, key: str, worlds: Collection[str]) -> None:
    """Check that prompt lists are of a known kind and that their other keys match them."""
    for file in prompt_files(settings):
        if Path(file).suffix not in SUFFIXES:
            kinds = ", ".join([*sorted(worlds), *(f"a {suffix} file" for suffix in SUFFIXES)])
            raise UserError(f"{key}.source must be {kinds}, not {file!r}")
    if settings.held_out:
        raise UserError(f"{key}.held_out is for an embedded world's prompts: remove it")
    names = prompt_lists(settings)
    if isinstance(settings.count, dict) and settings.template is None:
        if settings.count.keys() != names.keys():
            raise UserError(f"{key}.count must name the lists of source: {', '.join(names)}")
    elif isinstance(settings.count, dict):
        raise UserError(
            f"{key}.count must be one number, because template combines all lists into one"
        )
    elif isinstance(settings.count, int) and len(names) > 1 and settings.template is None:
        raise UserError(f"{key}.count must say how many of each list: {', '.join(names)}")
    if settings.template is not None:
        fields = {name for name, _ in _FIELD.findall(settings.template)}
        if not fields or fields != names.keys():
            raise UserError(
                f"{key}.template must have a field for each list of source:"
                f" {' '.join(f'{{{name}}}' for name in names)}"
            )


def _check_words(settings: PromptSettings, key: str) -> None:
    from rocm_core.shapes.words import WORDS

    for place in ("containing", "without"):
        for word in [word for word in getattr(settings, place) if word not in WORDS]:
            raise UserError(
                f"{key}.{place}: no caption of the world {settings.source} has the word"
                f" {word!r}{did_you_mean(word, sorted(WORDS))}"
            )


def _is_wanted(text: str, settings: PromptSettings) -> bool:
    """Does the prompt contain a wanted word, if any are wanted, and no refused one?"""
    words = set(re.findall(r"\w+", text.casefold()))
    wanted = {word.casefold() for word in settings.containing}
    refused = {word.casefold() for word in settings.without}
    return not words & refused and bool(not wanted or words & wanted)


def _read(settings: PromptSettings) -> dict[str, list[Prompt]]:
    """The prompts of each list by name; with a template, one list of all combinations."""
    if isinstance(settings.source, tuple):
        entries = enumerate(settings.source, 1)
        texts = [clean(text, f"{source_name(settings)}, entry {index}") for index, text in entries]
        return {"": number(texts, "configuration")}
    lists = {}
    for name, source in prompt_lists(settings).items():
        read = [prompt for file in source for prompt in read_list(file, settings.column)]
        if len(source) > 1:  # their numbers would collide
            read = number((prompt.text for prompt in read), name)
        if name:
            read = [Prompt(f"{name}-{p.id}", p.text, name) for p in read]
        lists[name] = read[: settings.first]
    if settings.template is None:
        return lists
    combined = (
        _fill(settings.template, dict(zip(lists, texts, strict=True)))
        for texts in itertools.product(*([p.text for p in part] for part in lists.values()))
    )
    return {"": number(combined, "+".join(lists))}


def _fill(template: str, words: Mapping[str, str]) -> str:
    """`template` with {name} replaced, and {name:a} preceded by its article."""

    def replace(field: re.Match[str]) -> str:
        word = words[field[1]]
        article = "an " if word[0].lower() in "aeiou" else "a "
        return (article if field[2] else "") + word

    return _FIELD.sub(replace, template)


def _distinct(lists: Mapping[str, Iterable[Prompt]], loosely: bool) -> dict[str, list[Prompt]]:
    """The lists without repeated prompts; loosely: also without those equal when normalised."""
    first: dict[str, tuple[str, Prompt]] = {}
    for name, prompts in lists.items():
        for prompt in prompts:
            key = normalise(prompt.text) if loosely else prompt.text
            first.setdefault(key, (name, prompt))
    return {name: [p for place, p in first.values() if place == name] for name in lists}


def _sample(name: str, prompts: list[Prompt], settings: PromptSettings) -> list[Prompt]:
    """The requested number of prompts, drawn with the seed, in the order of their list."""
    count = settings.count.get(name) if isinstance(settings.count, dict) else settings.count
    count = len(prompts) if count is None else count
    place = name or source_name(settings)
    if count > len(prompts):
        raise UserError(
            f"{place} has {len(prompts)} different prompts, not {count}: lower the count"
        )
    if not prompts:
        raise UserError(f"{place} has no prompt with the requested words")
    chosen = random.Random(f"{settings.seed} {name}" if name else settings.seed).sample(
        range(len(prompts)), count
    )
    return [prompts[i] for i in sorted(chosen)]


def read_list(path: str, column: str | None = None) -> list[Prompt]:
    """All prompts of a file of any kind, cleaned; those without an id are numbered.

    column: which column of a table or key of an object holds them; None: the first of `COLUMNS`, or
    in JSON lines, as this project writes them too, the last. The ids of JSON lines are kept, whole
    numbers as text. Blank lines are left out with a warning.
    Raises `UserError` with the place in the file for anything that is not a prompt.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is not a prompt list: it must end in {' or '.join(SUFFIXES)}")
    if column and suffix == ".txt":
        raise UserError(f"{path} has no columns: remove the key column ({column})")
    path = str(located(path))
    if suffix == ".jsonl":
        prompts = _json_lines(path, column)
    else:
        reader = {".json": _json, ".parquet": _parquet, ".txt": _lines}.get(suffix, _csv)
        texts = [clean(text, place) for place, text in reader(path, column)]
        prompts = number(texts, Path(path).name)
    if not prompts:
        raise UserError(f"{path} holds no prompts")
    return prompts


def number(texts: Iterable[str], source: str) -> list[Prompt]:
    """Prompts with consecutive numbers as ids."""
    return [Prompt(f"{index:05d}", text, source) for index, text in enumerate(texts)]


def normalise(text: str) -> str:
    """Key under which prompts that differ in case, punctuation, spacing or width compare equal."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded).split()
    return " ".join(words) or folded


def _lines(path: str, column: str | None = None) -> Iterator[tuple[str, str]]:
    """The lines of a text that are not blank."""
    blank = 0
    for place, line in lines_of(path):
        if is_blank(line):
            blank += 1
        else:
            yield place, line
    _warn_of_blank_lines(path, blank)


def _warn_of_blank_lines(path: str, count: int) -> None:
    if count:
        warn(f"{path}: {count} blank {'line is' if count == 1 else 'lines are'} skipped")


def _json_lines(path: str, column: str | None) -> list[Prompt]:
    """The prompts of objects or texts, one per line; an object may have an id and a source."""
    prompts: dict[str, Prompt] = {}
    for index, (place, line) in enumerate(_lines(path)):
        entry = parse_json(line, place)
        about = entry if isinstance(entry, dict) else {}
        if about:
            entry = about[_choose(about, column, place, tuple(reversed(COLUMNS)))]
        given, source = about.get("id"), about.get("source")
        whole = isinstance(given, int) and not isinstance(given, bool)
        own = f"{index:05d}" if given is None else str(given) if whole else given
        prompt = Prompt(
            identify(own, place),
            clean(entry, place),
            source if isinstance(source, str) else Path(path).name,
        )
        if prompt.id in prompts:
            raise UserError(f"{place}: the id {prompt.id!r} is given twice: ids must differ")
        prompts[prompt.id] = prompt
    return list(prompts.values())


def _json(path: str, column: str | None) -> Iterator[tuple[str, Any]]:
    """The prompts of a list of texts or objects, or of several such lists by name."""
    entries = parse_json(decode(path), path)
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
    rows, blank = csv.reader(io.StringIO(decode(path).rstrip("\r\n"), newline=""), **kind), 0
    try:
        header = next(rows, [])
        index = header.index(_choose(header, column, path))
        for row in rows:
            place = f"{path}:{rows.line_num}"
            if all(map(is_blank, row)):  # as spreadsheets leave them below a table
                blank += 1
                continue
            if len(row) != len(header):
                raise UserError(f"{place}: {len(row)} fields, but the header names {len(header)}")
            yield place, row[index]
        _warn_of_blank_lines(path, blank)
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


def _choose(
    names: Iterable[str], column: str | None, place: str, columns: Sequence[str] = COLUMNS
) -> str:
    """The name of the column that holds the prompts."""
    names = list(names)
    known = [column] if column else columns
    for wanted in known:
        for name in names:
            if name == wanted or not column and name.lower() == wanted:
                return name
    raise UserError(
        f"{place} has no column {' or '.join(known)}, but {', '.join(names)[:200] or 'none'}:"
        " name the one that holds the prompts in the key column"
    )
