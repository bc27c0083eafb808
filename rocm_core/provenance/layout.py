"""The results tree: the one place that spells a path below results/<name>/.

Names of cells, sources and prompt sets may be Snakemake's wildcards: `layout.cell("{cell}").lora`.
"""

from pathlib import Path


class CellFiles:
    """What a training leaves: the final LoRA, its history, its manifest and its snapshots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lora = folder / "lora.safetensors"
        self.history = folder / "history.csv"
        self.manifest = folder / "manifest.json"
        self.snapshots = folder / "snapshots"

    def snapshot(self, step: int | str) -> Path:
        """The LoRA after a step."""
        return self.snapshots / f"step-{step}.safetensors"


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
        self.results = folder / "results.json"
        self.table = folder / "results.csv"


class Layout:
    """The paths of one configuration's results, whose folder is `root`."""

    SUFFIXES = {
        "table": ("md", "tex", "csv"),
        "figure": ("pdf", "png", "csv"),
        "claims": ("json", "md"),
        "report": ("html",),
    }

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.study = StudyFiles(self.root / "study")
        self.cells, self.states = self.root / "cells", self.root / ".state"
        self.preflight = self.root / "preflight"
        self.accepted = self.root / "accepted.json"
        self.scorer_agreement = self.root / "tables" / "scorer_agreement.csv"

    def prompts(self, name: str) -> Path:
        """A prompt set."""
        return self.root / "prompts" / f"{name}.jsonl"

    def cell(self, cell: str) -> CellFiles:
        """The results of a cell's training."""
        return CellFiles(self.cells / cell)

    def samples(self, source: str, prompt_set: str, steps: int | str) -> SampleFiles:
        """The images of a source, a cell or `base-<policy>`, at a number of inference steps."""
        folder = self.root / "samples" / source / prompt_set / f"steps-{steps}"
        return SampleFiles(folder, steps)

    def snapshots(self, cell: str) -> SnapshotFiles:
        """The images of a cell's snapshots."""
        return SnapshotFiles(self.root / "samples" / cell / "snapshots")

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
