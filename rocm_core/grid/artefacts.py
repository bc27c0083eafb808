"""The files of a grid: what its jobs make, for the rules and for the commands that only look."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rocm_core.configuration import (
    Config,
    Contest,
    GenerationSettings,
    TrainingSettings,
)
from rocm_core.errors import UserError
from rocm_core.grid.base_rewards import BaseRun, base_runs
from rocm_core.grid.cells import Cell, make_grid, trials_of
from rocm_core.grid.codes import job_code
from rocm_core.grid.evaluation import (
    contests,
    evaluation_sets,
    generation_settings,
    sample_sets,
    scaled_sets,
    snapshot_prompts,
    training_sets,
)
from rocm_core.grid.gradients import compared_gradients, measured_steps
from rocm_core.grid.needs import offered
from rocm_core.grid.search import searched
from rocm_core.grid.shard_faults import shard_faults
from rocm_core.grid.used import listed, standardised, used_scorers
from rocm_core.prompts import prompt_files
from rocm_core.provenance import (
    Accepted,
    Layout,
    SampleFiles,
    SnapshotFiles,
    digest_of,
    left_out,
    located,
    record_beside,
)
from rocm_core.weights import files_of, inputs_of


class Artefacts:
    """The artefacts of a configuration under `root`, which is the configuration's own by default.

    With `partial: true` in the configuration, only the files that exist. Those of a cell or base
    whose shard can stand for it are the shard's, unless it was trained or drawn under `root`, too.
    `unused`: why other shards can't, {cell, base or file of several: sentence}.
    """

    def __init__(self, config: Config, root: str | Path | None = None) -> None:
        self.config = config
        self.layout = Layout(root or config.root)
        self.cells = {cell.name: cell for cell in make_grid(config)}
        policies = dict.fromkeys(cell.settings.policy for cell in self.cells.values())
        self.sources: dict[str, Cell | str] = {f"base-{p}": p for p in policies} | self.cells
        self.bases = [name for name in self.sources if name not in self.cells]
        self.trained_on = training_sets([*self.cells.values()])
        self.evaluation_sets = evaluation_sets(config, [*self.cells.values()])
        trials = [cell for cell in self.cells.values() if cell.trial]
        self.searches = list(dict.fromkeys((trial.reward, trial.method) for trial in trials))
        self.base_runs = base_runs(config, self.cells.values())
        self.unused: dict[str, str] = {}
        self.shards = self._shards()
        if self.shards and self.shards.is_dir():
            faults = shard_faults(Artefacts(config, self.shards), self.layout)
            here = {name for name in faults if self._is_live(name)}
            self.unused = {n: fault for n, fault in faults.items() if fault and n not in here}
            usable = faults.keys() - here - self.unused.keys()
            self.layout = Layout(self.layout.root, self.shards, usable, self.unused)

    def _shards(self) -> Path | None:
        """The folder of shards, relative where `root` is; None without, and if it is `root`."""
        if not self.config.shards:
            return None
        folder, root = located(self.config.shards), self.layout.root
        folder = folder.absolute() if root.is_absolute() else Path(os.path.relpath(folder))
        return None if folder == root else folder

    def _is_live(self, name: str) -> bool:
        if name not in self.sources:
            return (self.layout.root / name).exists()
        return (self.layout.cell if name in self.cells else self._main)(name).manifest.exists()

    def has(self, source: str) -> bool:
        """Whether there is anything of a cell or base."""
        files = self.layout.cell(source), self._main(source)
        return any(folder.exists() for folder in (files[0].folder, files[1].folder.parents[1]))

    def check_code(self) -> None:
        """Raise `UserError` for what is not Python in the user's own modules, or in what they
        import."""
        job_code("score", metrics=self.config.metrics)
        for cell in self.cells.values():
            job_code("train", cell.settings)

    def source(self, name: str) -> Cell | str:
        """The cell or the base's policy of that name; raises `UserError` where there is none."""
        if name not in self.sources:
            raise UserError(f"{name} is not a cell of {self.layout.root}: `make cells` lists them")
        return self.sources[name]

    def generation(self, source: str, steps: int | str | None = None) -> GenerationSettings:
        """How a source's images are made."""
        return generation_settings(self.config, self.source(source), steps)

    def folders(
        self, sets: Collection[str] | None = None, every_step: bool = True
    ) -> Iterator[tuple[str, str, SampleFiles]]:
        """(source, prompt set, images) of every source: of these prompt sets (None: of all), at
        every number of inference steps and strength of its adapter, or at the first."""
        for name, source in self.sources.items():
            places: list[tuple[str, int | str]] = [
                *sample_sets(self.config, self.evaluation_sets, source),
                *scaled_sets(self.config, source),
            ]
            for prompt_set, steps in places:
                if (sets is None or prompt_set in sets) and (every_step or steps == places[0][1]):
                    yield name, prompt_set, self.layout.samples(name, prompt_set, steps)

    def samples(
        self, file: str, sets: Collection[str] | None = None, every_step: bool = True
    ) -> list[Path]:
        """A file beside the images of each of `folders`."""
        return self.finished(
            files.folder / file
            for source, _, files in self.folders(sets, every_step)
            if not self._lacks(source, files.folder / file)
        )

    def evaluation_code(
        self, source: str, prompt_set: str, steps: int | str, accepted: Accepted | None = None
    ) -> list[str]:
        """Code fingerprints of a source's images, scores and read-outs, which one job makes; with
        `accepted`, those that the rules show Snakemake."""
        files = self.layout.live.samples(source, prompt_set, steps)
        made = {
            files.manifest: job_code("generate", self.generation(source)),
            record_beside(files.scores): job_code("score", metrics=self.config.metrics),
            record_beside(files.readouts): job_code("measure"),
        }
        return [accepted.code(*one) if accepted else one[1] for one in made.items()]

    def main_scores(self, *files: str) -> list[Path]:
        """Files beside the images that fill the tables, those of validation prompts at the first
        number of steps: their scores, and the published packages' where they are asked for."""
        files = files or ("scores.csv", *(["published.csv"] if self.config.published else []))
        return [path for file in files for path in self.samples(file, ["validation"], False)]

    def trained(self, file: str = "lora.safetensors") -> list[Path]:
        """A file of every cell; of shards, if they hold it."""
        found = ((name, self.layout.cell(name).folder / file) for name in self.cells)
        return self.finished(path for name, path in found if not self._lacks(name, path))

    def _lacks(self, source: str, path: Path) -> bool:
        return source in self.layout.sharded and left_out(str(path))

    def unfinished_histories(self) -> list[Path]:
        """Of a partial run, the rows so far of every cell whose training has not finished."""
        return self.finished(
            self.layout.run(name).history
            for name in self.cells
            if self.config.partial and not self.layout.cell(name).history.exists()
        )

    def lora(self, cell: str) -> Path:
        """The LoRA with which a cell's images are made: the final one, or the best snapshot's. No
        shard holds it."""
        files = self.layout.live.cell(cell)
        return files.best if self.cells[cell].settings.stop_by else files.lora

    def choosers(self, cell: str) -> dict[str, str | None]:
        """The scorers that choose among a cell's snapshots, with their weights."""
        return self.scorer_paths(listed(self.cells[cell].settings.stop_by))

    def choosing_code(self, cell: str) -> str:
        """Code fingerprint of that choice."""
        return job_code("choose_snapshot", self.generation(cell), [*self.choosers(cell)])

    def gradients(self, cell: str) -> dict[str, TrainingSettings]:
        """{method: settings} of the gradients that are measured at a cell's weights."""
        return compared_gradients(self.config, [*self.cells.values()], self.cells[cell])

    def gradient_settings(self, cell: str) -> dict[str, Any]:
        """The settings of that job."""
        compared = self.gradients(cell)
        return {
            "methods": {k: s.to_dict() for k, s in compared.items()},
            "images": self.config.gradients.images,
            "images_per_prompt": self.config.gradients.images_per_prompt,
            "steps": measured_steps(self.cells[cell], [*compared]),
        }

    def gradient_code(self, cell: str) -> str:
        """Code fingerprint of that job."""
        return digest_of(
            {k: job_code("measure_gradients", s) for k, s in self.gradients(cell).items()}
        )

    def gradient_files(self) -> list[Path]:
        """What is measured of gradients."""
        measured = (self.layout.cell(name).gradients for name in self.cells if self.gradients(name))
        return self.finished(measured)

    def base_run(self, key: str) -> BaseRun:
        """The run of the base of that key."""
        return next(run for run in self.base_runs.values() if run.key == key)

    def base_run_settings(self, key: str) -> dict[str, Any]:
        """The settings of the job that scores it."""
        run = self.base_run(key)
        return {"pairs": run.pairs, "runs": {k: s.to_dict() for k, s in run.settings.items()}}

    def base_run_standards(self, key: str) -> list[Path]:
        """The files by which its rewards are standardised."""
        run = self.base_run(key)
        wanted = (self.layout.standards(run.policy, run.prompts, s) for s in run.scorers if s)
        return [self.layout.found(file) for file in wanted]

    def base_run_code(self, key: str) -> str:
        """Code fingerprint of that job."""
        runs = self.base_run(key).settings
        return digest_of({reward: job_code("score_base", s) for reward, s in runs.items()})

    def base_reward_files(self) -> list[Path]:
        """What the base scores on the prompts and the noise of trainings; where only the shards
        have it, theirs."""
        runs = {run.key: run for run in self.base_runs.values()}
        files = (self.layout.base_rewards(run.policy, key) for key, run in runs.items())
        return self.finished(map(self.layout.found, files))

    def standards(self, cell: str) -> list[Path]:
        """The file with the base's scores by which a cell's reward is standardised, which is that
        of the shards if they have it: another machine's differ in rounding. [] where it is not."""
        return [self.layout.found(file) for file in self._standards(cell)]

    def _standards(self, cell: str) -> list[Path]:
        settings = self.cells[cell].settings
        scorers = standardised(settings)
        wanted = self.layout.standards(settings.policy, settings.prompts, scorers)
        return [wanted] if scorers else []

    def choice(self, cell: str) -> list[Path]:
        """The file with what a search chose for a cell's settings; [] where nothing is searched."""
        own = self.cells[cell]
        return [self.layout.choice(own.reward, own.method)] if searched(own.settings) else []

    def tried(self, reward: str, method: str) -> list[dict[str, Any]]:
        """What each trial of a search sets in the place of what is searched."""
        return [
            {key: value for key, value in trial.swept if key != "iterations"}
            for trial in self._trials(reward, method)
        ]

    def trial_reward(self, reward: str, method: str) -> dict[str, Any]:
        """The reward of those trials, what they use, and what an ensemble consists of."""
        settings = self._trials(reward, method)[0].settings
        ensemble = settings.ensemble and settings.ensemble.to_dict()
        return {"reward": reward, "used": used_scorers(settings), "ensemble": ensemble}

    def trial_standards(self, reward: str, method: str) -> list[Path]:
        """The file by which an ensemble's scores of those trials are standardised."""
        return self.standards(self._trials(reward, method)[0].name)

    def trial_scores(self, reward: str, method: str) -> list[Path]:
        """The scores of each trial of a search."""
        return [self._main(trial.name).scores for trial in self._trials(reward, method)]

    def base_scores(self, reward: str, method: str) -> Path:
        """The scores of the base that those trials start from."""
        return self._main(f"base-{self._trials(reward, method)[0].settings.policy}").scores

    def _trials(self, reward: str, method: str) -> list[Cell]:
        return trials_of(self.cells.values(), reward, method)

    def _main(self, source: str) -> SampleFiles:
        """A source's images of validation prompts, at the first number of steps."""
        name, steps = sample_sets(self.config, ["validation"], self.sources[source])[0]
        return self.layout.samples(source, name, steps)

    def contests(self) -> dict[str, Contest]:
        """The contests that the user study's comparisons name. In a partial run, what exists takes
        part."""
        study = self.config.study
        names = {*itertools.chain(*study.comparisons)} if study else set()
        found = {}
        for name, cells in contests(self.cells.values()).items() if study else ():
            if name in names:
                files = {
                    c.name: [self._main(c.name).scores, self.shown(c.name).index] for c in cells
                }
                used = tuple(dict.fromkeys(s for c in cells for s in used_scorers(c.settings)))
                here = [cell for cell, paths in files.items() if self.finished(paths) == paths]
                found[name] = Contest(
                    reward=cells[0].reward,
                    used=used if used != (cells[0].reward,) else (),
                    base=str(self._main(f"base-{cells[0].settings.policy}").scores),
                    scores={cell: str(files[cell][0]) for cell in here},
                    missing=tuple(cell for cell in files if cell not in here),
                )
        return found

    def compared(self) -> dict[str, SampleFiles]:
        """The images that the user study needs, by the name of what made them."""
        contests, study = self.contests(), self.config.study
        named = itertools.chain(*study.comparisons) if study else ()
        models = (contests[name].scores if name in contests else [name] for name in named)
        return {model: self.shown(model) for model in itertools.chain(*models)}

    def shown(self, source: str) -> SampleFiles:
        """A source's images of the prompts that the user study shows, which no shard holds."""
        assert self.config.study
        steps = self.generation(source).inference_steps
        return self.layout.live.samples(source, self.config.study.prompts, steps)

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
        files = prompt_files(self.config.prompts[name])
        return [file for file in files if located(file).is_file() or files_of(file)]

    def kept_out(self, name: str) -> list[Path]:
        """The prompt sets of which a set must hold no prompt: those that cells train on."""
        free = name in self.trained_on or self.config.prompts[name].overlap == "allow"
        return [] if free else [self.layout.prompts(other) for other in self.trained_on]

    def finished(self, paths: Iterable[Path]) -> list[Path]:
        """`paths`; of a partial run those that exist."""
        return [path for path in paths if not self.config.partial or path.exists()]

    def rendered(self) -> list[tuple[str, str]]:
        """(kind, name) of every table and figure that there is data for, the claims, the report."""
        kinds = ("table", "figure")
        drawn = [(k, n) for k in kinds for n in offered(f"{k}s", self.config, self.layout)]
        return [*drawn, ("claims", "claims"), ("report", "report")]

    def measured_bases(self) -> dict[Path, tuple[str, str, tuple[str, ...]]]:
        """{file of `standards`: its policy, prompt set and scorers}."""
        found: dict[Path, tuple[str, str, tuple[str, ...]]] = {}
        for name, cell in self.cells.items():
            place = cell.settings.policy, cell.settings.prompts, standardised(cell.settings)
            found |= dict.fromkeys(self._standards(name), place)
        return found

    def measuring_code(self, policy: str, scorers: Sequence[str]) -> str:
        """Code fingerprint of such a file."""
        return job_code("standardise", self.generation(f"base-{policy}"), scorers)

    def scorer_paths(self, scorers: Iterable[str]) -> dict[str, str | None]:
        """{scorer: local weights}."""
        return {name: self.config.scorers[name] for name in scorers}

    @property
    def clip(self) -> str | None:
        """The weights that read-outs of diversity need; None where CLIP is not a metric."""
        return self.config.scorers["clipscore"] if "clipscore" in self.config.metrics else None

    @property
    def readouts(self) -> list[str]:
        """The read-outs that are measured of images."""
        return ["high_frequency", "pixel_diversity", *(["clip_diversity"] if self.clip else [])]

    @property
    def published(self) -> dict[str, str | None]:
        """{metric: weights} of the published packages that score images."""
        return self.scorer_paths(self.config.published)


def used(config: Config) -> list[str]:
    """The local paths of a configuration's models, scorers and prompts."""
    models = ((policy.model, policy.lora) for policy in config.policies.values())
    files = (file for prompts in config.prompts.values() for file in prompt_files(prompts))
    paths = [*itertools.chain(*models), *config.scorers.values(), *files]
    return list(dict.fromkeys(path for path in paths if path))


def needed(config: Config) -> list[str]:
    """The table's files that a configuration's models, scorers and prompts are made of, but those
    that the checkout has."""
    return list(dict.fromkeys(inputs_of(*used(config))))
