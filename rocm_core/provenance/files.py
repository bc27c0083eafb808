"""Files of the results: their paths, atomic writes, and digests of files, folders and listings.

`Layout` is the one place that spells a path below results/<name>/. Names of cells, sources and
prompt sets may be Snakemake's wildcards: `layout.cell("{cell}").lora`.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import secrets
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rocm_core.errors import UserError
from rocm_core.provenance.sources import located

# How pandas is to read the tables of scores: ids and names are text, even `NA` and `007`.
CSV_OPTIONS: dict[str, Any] = {
    "dtype": dict.fromkeys(["prompt_id", "metric", "at", "gradient"], str),
    "keep_default_na": False,
    "na_values": [""],
}
LOCK = "weights.lock"
RECORDS = ("MANIFEST.json", LOCK)


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content; a file unchanged in size and time is read once."""
    status = os.stat(path)
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(hashes: Mapping[str, str]) -> str:
    """One sha256 for {relative name: sha256}."""
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()


def folder_digest(path: str | Path) -> str:
    """One sha256 over the names and contents of a folder's files, hidden files left out.

    Looked up, without reading the files, where a MANIFEST.json or weights.lock lists them. A single
    file gives its own sha256; a missing path "absent", so that a dry-run needs none.
    """
    path = located(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return "absent"
    return digest_of(
        listed_hashes(path) or {name: sha256_file(path / name) for name in files_in(path)}
    )


def record_of(folder: str | Path) -> Path | None:
    """The nearest MANIFEST.json or weights.lock, in a folder or in one of the three above it."""
    folder = Path(folder).absolute()
    records = (parent / name for parent in [folder, *folder.parents[:3]] for name in RECORDS)
    return next((record for record in records if record.is_file()), None)


def listed_hashes(folder: str | Path) -> dict[str, str]:
    """{relative name: sha256} of a folder's files as its `record_of` lists them, {} without one.
    Raises `UserError` for a record that cannot be read."""
    record = record_of(folder)
    if record is None:
        return {}
    below = Path(folder).absolute().relative_to(record.parent).as_posix() + "/"
    below = "" if below == "./" else below
    return dict(_listed(record, below, record.stat().st_size, record.stat().st_mtime_ns))


@functools.cache
def _listed(record: Path, below: str, size: int, mtime_ns: int) -> dict[str, str]:
    """What a record lists below a folder; one unchanged in size and time is read once."""
    entries = read_listing(record).items()
    hashes = {k: v if isinstance(v, str) else v["sha256"] for k, v in entries}
    return {k.removeprefix(below): v for k, v in hashes.items() if k.startswith(below)}


def read_listing(record: Path) -> dict[str, Any]:
    """The entries of a MANIFEST.json, sha256, or of a weights.lock, objects with sha256."""
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{record} cannot be read as JSON ({error}): restore it") from None
    values = entries.values() if isinstance(entries, dict) else [None]
    if not all(isinstance(v.get("sha256") if isinstance(v, dict) else v, str) for v in values):
        raise UserError(f"{record} must map file names to sha256: restore it")
    return entries


def files_in(folder: Path) -> list[str]:
    """Sorted relative names of a folder's files, hidden ones and records left out."""
    names = (file.relative_to(folder) for file in walk(folder))
    return sorted(
        name.as_posix()
        for name in names
        if name.name not in RECORDS and not any(part.startswith(".") for part in name.parts)
    )


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file below a folder, through links to other folders, but not back to one it is in; of a
    folder above it, the files that lie in it.

    above: the real paths of the folders that led here. `Path.rglob` and `os.walk` either pass links
    by or follow them in circles.
    """
    above = (*above, folder.resolve())
    for entry in sorted(folder.iterdir()):
        if entry.is_file():
            yield entry
        elif entry.is_dir():
            target = entry.resolve()
            if not any(real.is_relative_to(target) for real in above):
                yield from walk(entry, above)
            elif target not in above:
                yield from filter(Path.is_file, sorted(entry.iterdir()))


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` only when the block ends well; an old one stays till then.

    The file may also be written by its `.name`. On return content and name are on the disk (fsync).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table atomically; None and NaN are an empty field.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises
    against CSV injection; some trim a field first, and take a sign of full width for a plain one.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([_field(value) for value in row] for row in [columns, *rows])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _field(value: Any) -> Any:
    if not isinstance(value, str):
        return None if value != value else value
    value = value.replace("\r", " ")  # which csv would not quote
    try:
        float(value)  # a number is one, whatever its sign
    except ValueError:
        first = unicodedata.normalize("NFKC", value.strip()[:1])
        return f"'{value}" if first in ("=", "+", "-", "@") or value[:1] == "\t" else value
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def read_entry(path: Path, key: str) -> Any:
    """What a JSON file has under a key; raises `UserError` where it cannot be read or has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has no {key!r} ({error}): make it again") from None


class CellFiles:
    """What a training leaves: the final LoRA, its history, its manifest and its snapshots; what
    `stop_by` chose among these; and how far gradients scatter at its weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lora = folder / "lora.safetensors"
        self.best = folder / "best.safetensors"
        self.choice = folder / "best.json"
        self.history = folder / "history.csv"
        self.manifest = folder / "manifest.json"
        self.gradients = folder / "gradients.csv"
        self.snapshots = folder / "snapshots"

    def snapshot(self, step: int | str) -> Path:
        """The LoRA after a step."""
        return self.snapshots / f"step-{step}.safetensors"


class RunFiles:
    """What a training shows while it runs; no result is made from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = folder / "history.csv"
        self.snapshots = folder / "snapshots"
        self.previews = folder / "previews"
        self.tensorboard = folder / "tensorboard"

    def preview(self, step: int) -> Path:
        """Sample images by the LoRA after a step."""
        return self.previews / f"step-{step}.png"


class SampleFiles:
    """The images of one source on one prompt set, and what is measured of them."""

    def __init__(self, folder: Path, steps: int | str) -> None:
        self.folder, self.steps = folder, steps
        self.index = folder / "index.jsonl"
        self.manifest = folder / "manifest.json"
        self.scores = folder / "scores.csv"
        self.published = folder / "published.csv"
        self.readouts = folder / "readouts.csv"

    def image(self, prompt_id: str) -> Path:
        """The image of a prompt."""
        return self.folder / f"{prompt_id}.png"


class SnapshotFiles:
    """The images and scores of a cell's snapshots; step 0 is the base model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"
        self.scores = folder / "scores.csv"

    def image(self, step: int, prompt_id: str) -> Path:
        """The image of a prompt by the snapshot after a step."""
        return self.folder / f"step-{step}" / f"{prompt_id}.png"


class StudyFiles:
    """The user study: the page that raters see, its key, their votes and what these say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page = folder / "page"
        self.key = folder / "key.json"
        self.votes = folder / "votes.jsonl"
        self.simulated = folder / "simulated.json"  # which of these are of no person
        self.results = folder / "results.json"
        self.table = folder / "results.csv"

    @property
    def counted(self) -> list[Path]:
        """What the results are made from, as far as it is there."""
        return [path for path in (self.key, self.votes, self.simulated) if path.exists()]


class Layout:
    """The paths of one configuration's results, whose folder is `root`.

    shards: a folder laid out alike, which holds the small files of the cells and bases in `sharded`
    instead, and what several of them are made from, but `unusable` files, named from that folder.
    `live` and `shards` are these two folders by themselves.
    """

    SUFFIXES = {
        "table": ("md", "tex", "csv"),
        "figure": ("pdf", "png", "csv"),
        "claims": ("json", "md"),
        "report": ("html",),
    }

    def __init__(
        self,
        root: str | Path,
        shards: str | Path = "",
        sharded: Collection[str] = (),
        unusable: Collection[str] = (),
    ) -> None:
        self.root = Path(root)
        self.sharded, self.unusable = frozenset(sharded), frozenset(unusable)
        self.live: Layout = Layout(root) if sharded else self
        self.shards: Layout = Layout(shards) if sharded else self
        self.study = StudyFiles(self.root / "study")
        self.cells, self.states = self.root / "cells", self.root / ".state"
        self.runs = self.root / "runs"
        self.preflight = self.root / "preflight"
        self.accepted = self.root / "accepted.json"
        self.origin = self.root / "configuration.json"
        self.scorer_agreement = self.root / "tables" / "scorer_agreement.csv"

    def of(self, source: str) -> "Layout":
        """Where the files of a cell or base are."""
        return self.shards if source in self.sharded else self

    def holds(self, path: Path) -> bool:
        """Whether a file is below one of the two folders."""
        return any(path.is_relative_to(folder) for folder in (self.root, self.shards.root))

    def within(self, path: Path) -> Path:
        """The path of a file that one of the two folders holds, from that folder."""
        folder = self.root if path.is_relative_to(self.root) else self.shards.root
        return path.relative_to(folder)

    def found(self, path: Path) -> Path:
        """A file of no single cell or base, such as a prompt set or a choice; where only the
        shards have it, and it can be used, theirs."""
        name = path.relative_to(self.root)
        copy = self.shards.root / name
        usable = name.as_posix() not in self.unusable and copy.exists()
        return copy if usable and not path.exists() else path

    @property
    def outcomes(self) -> Path:
        """What the votes of the user study say; without votes here, what the shards have of it."""
        return self.study.results if self.study.votes.exists() else self.found(self.study.results)

    @property
    def has_votes(self) -> bool:
        """Whether there are votes, or shards of what they say."""
        return self.study.votes.exists() or self.outcomes.exists()

    def prompts(self, name: str) -> Path:
        """A prompt set."""
        return self.root / "prompts" / f"{name}.jsonl"

    def cell(self, cell: str) -> CellFiles:
        """The results of a cell's training."""
        return CellFiles(self.of(cell).cells / cell)

    def run(self, cell: str) -> RunFiles:
        """What a cell's training shows while it runs."""
        return RunFiles(self.runs / cell)

    def samples(self, source: str, prompt_set: str, steps: int | str) -> SampleFiles:
        """The images of a source, a cell or `base-<policy>`, at a number of inference steps."""
        folder = self.of(source).root / "samples" / source / prompt_set / f"steps-{steps}"
        return SampleFiles(folder, steps)

    def snapshots(self, cell: str) -> SnapshotFiles:
        """The images of a cell's snapshots."""
        return SnapshotFiles(self.of(cell).root / "samples" / cell / "snapshots")

    def choice(self, reward: str, method: str) -> Path:
        """What a search chose for the settings of a method on a reward."""
        return self.root / "search" / reward / f"{method}.json"

    def standards(self, policy: str, prompt_set: str, scorers: Iterable[str] | str) -> Path:
        """How the base's images of a prompt set score by some scorers."""
        name = scorers if isinstance(scorers, str) else "+".join(scorers)
        return self.root / "standards" / policy / prompt_set / f"{name}.json"

    def base_rewards(self, policy: str, key: str) -> Path:
        """What the base scores on the prompts and the noise of some trainings."""
        return self.root / "base_rewards" / policy / f"{key}.csv"

    def state(self, cell: str, version: str) -> Path:
        """The folder of an unfinished training."""
        return self.states / cell / version

    def rendered(self, kind: str, name: str = "") -> list[Path]:
        """The files of a table, a figure, the claims or the report."""
        stem = self.root / f"{kind}s" / name if kind in ("table", "figure") else self.root / kind
        return [stem.with_name(f"{stem.name}.{suffix}") for suffix in self.SUFFIXES[kind]]

    def log(self, *parts: str) -> Path:
        """What a job printed: `log("train", "{cell}")`."""
        return self.root.joinpath("logs", *parts[:-1], f"{parts[-1]}.log")

    def benchmark(self, *parts: str) -> Path:
        """What a job took of the machine, by the same parts as its log."""
        return self.root.joinpath("benchmarks", *parts[:-1], f"{parts[-1]}.tsv")


def record_beside(file: str | Path) -> Path:
    """The manifest of a file that is made alone: scores.csv → scores.manifest.json."""
    return Path(file).with_suffix(".manifest.json")
