"""The files of a grid: what its jobs make, for the rules and for the commands that only look."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocm_core.errors import UserError
from rocm_core.grid import code
from rocm_core.grid.cells import Cell, make_grid
from rocm_core.grid.evaluation import (
    evaluation_sets,
    generation_settings,
    sample_sets,
    snapshot_prompts,
    training_sets,
)
from rocm_core.grid.snapshots import snapshot_steps
from rocm_core.prompts import Prompt, prompt_files
from rocm_core.provenance import Layout, SampleFiles, SnapshotFiles, digest_of, record_beside
from rocm_core.weights import files_of

if TYPE_CHECKING:
    from rocm_core.configuration import Config, GenerationSettings

# Sections that no table or figure shows; `study` is shown by those that count its votes.
_HIDDEN = ("resources", "weights", "study")


@dataclass(frozen=True)
class Made:
    """What one job makes: its manifest and what that must say. `outputs` are names beside it.

    rendered: `settings` are digests of the configuration's sections, as `shown_sections` has them.
    """

    manifest: Path
    settings: Mapping[str, Any]
    code: str
    outputs: Sequence[str]
    rendered: bool = False


class Artefacts:
    """The artefacts of a configuration under `root`, which is the configuration's own by default.

    With `partial: true` in the configuration, only the files that exist.
    """

    def __init__(self, config: "Config", root: str | Path | None = None) -> None:
        self.config = config
        self.layout = Layout(root or config.root)
        self.cells = {cell.name: cell for cell in make_grid(config)}
        policies = dict.fromkeys(cell.settings.policy for cell in self.cells.values())
        self.sources: dict[str, Cell | str] = {f"base-{p}": p for p in policies} | self.cells
        self.bases = [name for name in self.sources if name not in self.cells]
        self.trained_on = training_sets([*self.cells.values()])
        self.evaluation_sets = evaluation_sets(config, [*self.cells.values()])

    def source(self, name: str) -> Cell | str:
        """The cell or the base's policy of that name; raises `UserError` where there is none."""
        if name not in self.sources:
            raise UserError(f"{name} is not a cell of {self.layout.root}: `make cells` lists them")
        return self.sources[name]

    def generation(self, source: str, steps: int | str | None = None) -> "GenerationSettings":
        """How a source's images are made."""
        return generation_settings(self.config, self.source(source), int(steps) if steps else None)

    def folders(
        self, sets: Iterable[str] | None = None, every_step: bool = True
    ) -> Iterator[tuple[str, str, SampleFiles]]:
        """(source, prompt set, images) of every source: of these prompt sets (None: of all), at
        every number of inference steps or at the first."""
        for name, source in self.sources.items():
            places = sample_sets(self.config, self.evaluation_sets, source)
            for prompt_set, steps in places:
                if (sets is None or prompt_set in sets) and (every_step or steps == places[0][1]):
                    yield name, prompt_set, self.layout.samples(name, prompt_set, steps)

    def samples(
        self, file: str, sets: Iterable[str] | None = None, every_step: bool = True
    ) -> list[Path]:
        """A file beside the images of each of `folders`."""
        found = self.folders(sets, every_step)
        return self.finished(files.folder / file for _, _, files in found)

    def main_scores(self, *files: str) -> list[Path]:
        """Files beside the images that fill the tables, those of validation prompts at the first
        number of steps: their scores, and the published packages' where they are asked for."""
        files = files or ("scores.csv", *(["published.csv"] if self.config.published else []))
        return [path for file in files for path in self.samples(file, ["validation"], False)]

    def final_images(self) -> list[Path]:
        """The indices of the images that fill the tables."""
        return self.main_scores("index.jsonl")

    def trained(self, file: str = "lora.safetensors") -> list[Path]:
        """A file of every cell."""
        return self.finished(self.layout.cell(name).folder / file for name in self.cells)

    def evaluated(self) -> dict[str, SnapshotFiles]:
        """The cells whose snapshots are evaluated."""
        return {
            name: self.layout.snapshots(name)
            for name, cell in self.cells.items()
            if snapshot_prompts(self.config) and cell.settings.snapshot_every
        }

    def snapshot_scores(self) -> list[Path]:
        """The scores of those snapshots."""
        return self.finished(files.scores for files in self.evaluated().values())

    def prompts(self, sets: Iterable[str] = ("validation",)) -> list[Path]:
        """The files of prompt sets."""
        return self.finished(map(self.layout.prompts, sets))

    def prompt_sources(self, name: str) -> list[str]:
        """The files that a prompt set is read from; none for an embedded world's captions."""
        return [
            p for p in prompt_files(self.config.prompts[name]) if Path(p).is_file() or files_of(p)
        ]

    def kept_out(self, name: str) -> list[Path]:
        """The prompt sets of which a set must hold no prompt: those that cells train on."""
        free = name in self.trained_on or self.config.prompts[name].overlap == "allow"
        return [] if free else [self.layout.prompts(other) for other in self.trained_on]

    def finished(self, paths: Iterable[Path]) -> list[Path]:
        """`paths`; of a partial run those that exist."""
        return [path for path in paths if not self.config.partial or path.exists()]

    def made_prompts(self) -> Iterator[Made]:
        """The prompt sets."""
        for name, settings in self.config.prompts.items():
            path = self.layout.prompts(name)
            made = code.prompts_code(settings)
            yield Made(record_beside(path), settings.to_dict(), made, [path.name])

    def made(self, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[Made]:
        """All trainings, and the images and scores on those sets whose `prompts` are given."""
        config = self.config
        for name, cell in self.cells.items():
            own, settings = self.layout.cell(name), cell.settings
            trained = [own.lora, own.history, *map(own.snapshot, snapshot_steps(settings))]
            outputs = [file.relative_to(own.folder).as_posix() for file in trained]
            yield Made(own.manifest, settings.to_dict(), code.train_code(settings), outputs)
        scorers = {"scorers": config.scorer_paths()}
        for name, prompt_set, files in self.folders():
            if prompt_set not in prompts:
                continue
            drawn = self.generation(name, files.steps)
            outputs = [files.index.name, *(files.image(p.id).name for p in prompts[prompt_set])]
            yield Made(files.manifest, drawn.to_dict(), code.generate_code(drawn), outputs)
            yield _beside(files.scores, scorers, code.score_code(config.metrics))
        for _, prompt_set, files in self.folders(["validation"], every_step=False):
            if prompt_set in prompts:
                yield _beside(files.readouts, {"clip": self.clip}, code.measure_code())
                if config.published:
                    yield _beside(
                        files.published, {"scorers": self.published}, code.published_code()
                    )
        for name, evaluated in self.evaluated().items():
            cell = self.cells[name]
            if cell.evaluated_on in prompts:
                drawn = self.generation(name)
                first = prompts[cell.evaluated_on][: snapshot_prompts(config)]
                images = [
                    evaluated.image(step, prompt.id)
                    for step in snapshot_steps(cell.settings)
                    for prompt in first
                ]
                outputs = [
                    file.relative_to(evaluated.folder).as_posix()
                    for file in [evaluated.scores, *images]
                ]
                made = code.snapshots_code(drawn, config.metrics)
                yield Made(evaluated.manifest, drawn.to_dict() | scorers, made, outputs)

    @property
    def clip(self) -> str | None:
        """The weights that read-outs of diversity need; None where CLIP is not a metric."""
        return self.config.scorers["clipscore"] if "clipscore" in self.config.metrics else None

    @property
    def published(self) -> dict[str, str | None]:
        """{metric: weights} of the published packages that score images."""
        return {name: self.config.scorers[name] for name in self.config.published}


def _beside(file: Path, settings: Mapping[str, Any], fingerprint: str) -> Made:
    return Made(record_beside(file), settings, fingerprint, [file.name])


def shown_sections(config: "Config", study: bool = False) -> dict[str, str]:
    """A digest of each section of a configuration that something rendered depends on, in the order
    of the file, which is that of the methods. `study`: it counts votes."""
    return {
        key: digest_of({key: json.dumps(value)})
        for key, value in sorted(config.to_dict().items())
        if key not in _HIDDEN or (study and key == "study")
    }
