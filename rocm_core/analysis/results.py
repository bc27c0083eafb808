"""What a run has produced, read from its results directory as tidy frames."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rocm_core.analysis.comparison import compare
from rocm_core.analysis.labels import ensemble_label, method_label, metric_label
from rocm_core.analysis.sources import Source
from rocm_core.analysis.statistics import Estimate, paired_difference, per_prompt
from rocm_core.configuration import Config
from rocm_core.errors import UserError
from rocm_core.grid import (
    BaseRun,
    Standards,
    base_runs,
    combine,
    compared_gradients,
    evaluation_sets,
    make_grid,
    sample_sets,
    scaled_sets,
    standardised,
    used_scorers,
)
from rocm_core.prompts import Prompt, read_prompts
from rocm_core.provenance import CSV_OPTIONS, Layout, SampleFiles, hash_inputs, read_entry

_KEYS = ["reward", "method", "seed"]
_SCORES = ["prompt_id", "metric", "value"]


class Results:
    """The artefacts of one configuration under `root`, a folder or a layout with shards, each kind
    read when first asked for.

    An artefact that is missing or broken raises `UserError`, which names the file. With
    `partial: true` in the configuration a missing one is left out and named in `gaps`.
    """

    def __init__(self, config: Config, root: str | Path | Layout) -> None:
        self.config = config
        self.layout = root if isinstance(root, Layout) else Layout(root)
        self.root = self.layout.root
        self.files_read: dict[Path, str] = {}
        self.cells = make_grid(config)
        policies = dict.fromkeys(cell.settings.policy for cell in self.cells)
        self.bases = [Source(f"base-{p}", f"base-{p}", p) for p in policies]
        self.trained = [
            Source(c.name, c.variant, c.settings.policy, c.reward, c.seed, c) for c in self.cells
        ]
        self.everything = self.bases + self.trained
        # By the method's spelling: of whichever reward and seed, since what it is does not vary.
        self.models = {s.method: s for s in reversed(self.everything)}

    @property
    def rewards(self) -> list[str]:
        """The training rewards, in the order of the grid."""
        return list(dict.fromkeys(cell.reward for cell in self.cells))

    def methods(self, reward: str | None = None, *, sweeps: bool = False) -> list[str]:
        """Trained methods in the order of the grid (of one reward), swept ones if asked for, but no
        trials of a search."""
        own = [c for c in self.cells if reward in (None, c.reward) and not c.trial]
        return list(dict.fromkeys(cell.variant for cell in own if sweeps or not cell.swept))

    def used(self, reward: str, method: str | None = None) -> set[str]:
        """The scorers that trainings on a reward (of one method) used: none is held out."""
        cells = [c for c in self.cells if c.reward == reward and method in (None, c.variant)]
        return {scorer for cell in cells for scorer in used_scorers(cell.settings)}

    def models_of(self, reward: str) -> list[str]:
        """The base models of a reward's trainings, then its methods; swept ones are left out."""
        methods = self.methods(reward)
        return [*dict.fromkeys(self.base_of(reward, method) for method in methods), *methods]

    def label(self, method: str, *, short: bool = False, where: bool = True) -> str:
        """How tables and figures name a method or a base: `method_label`."""
        return method_label(self.models[method], short=short, where=where)

    def reward_label(self, reward: str) -> str:
        """How headings with room name a training reward: an ensemble with what it is made of."""
        ensemble = self.config.ensembles.get(reward)
        return ensemble_label(reward, ensemble) if ensemble else metric_label(reward)

    @property
    def generators(self) -> list[str]:
        """The policies trained with few steps: all but the diffusion model."""
        every = dict.fromkeys(cell.settings.policy for cell in self.cells)
        return [policy for policy in every if policy != "diffusion"]

    def beta(self, source: Source) -> float:
        """The weight of a model's divergence; where it was searched or steered, what it was in the
        end, or NaN while that is unknown."""
        configured = source.cell.settings.beta if source.cell else 0.0
        if isinstance(configured, float):
            return configured
        return float(self.manifests.get(source.name, {}).get("beta", math.nan))

    def learning_rate(self, source: Source) -> float:
        """What a training's learning rate begins with; where it was searched, what was chosen, or
        NaN while that is unknown."""
        configured = source.cell.settings.learning_rate if source.cell else math.nan
        if isinstance(configured, float):
            return configured
        choice = self.choice(source.reward, source.family) if source.reward else {}
        return float(choice.get("learning_rate", math.nan))

    def choice(self, reward: str, method: str, entry: str = "chosen") -> Any:
        """What a search chose for a method on a reward, or another entry of its file (`choose`);
        {} where none has."""
        path = self.layout.found(self.layout.choice(reward, method))
        return read_entry(self.existing(path), entry) if path.exists() else {}

    def sources(self, reward: str, method: str) -> list[Source]:
        """The cells of a method, one per training seed; of a base, itself."""
        cells = [s for s in self.trained if (s.reward, s.method) == (reward, method)]
        return cells or [s for s in self.bases if s.method == method]

    @cached_property
    def evaluation_sets(self) -> list[str]:
        """The prompt sets that sources are evaluated on, the validation prompts first."""
        return evaluation_sets(self.config, self.cells)

    def base_of(self, reward: str, method: str) -> str:
        """The base model that a trained method started from."""
        return f"base-{self.sources(reward, method)[0].policy}"

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The validation prompts, in their order."""
        return self.prompt_set("validation")

    def prompt_set(self, name: str) -> list[Prompt]:
        """The prompts of one set, in their order."""
        return read_prompts(self.existing(self.layout.found(self.layout.prompts(name))))

    @cached_property
    def final(self) -> pd.DataFrame:
        """Scores of the final models and the bases on the validation prompts.

        Columns: reward (None for a base), method, seed, prompt_id, metric, value. The scores of
        the metrics in `published` are the published packages', also within an ensemble.
        """
        return self._stacked(self.everything, self._final_scores, _SCORES)[[*_KEYS, *_SCORES]]

    def _final_scores(self, source: Source) -> pd.DataFrame | None:
        files, published = self.samples(source), self.config.published
        ours = self._read_csv(files.scores, _SCORES)
        if ours is None or not published:
            return ours
        ours = ours[~ours["metric"].isin(published)]
        theirs = self._read_csv(files.published, _SCORES)
        return ours if theirs is None else pd.concat([ours, theirs], ignore_index=True)

    @cached_property
    def readouts(self) -> pd.DataFrame:
        """Read-outs of the images that `final` scores, one number per image and metric of
        `rocm_core.evaluation.readouts`.

        Columns: reward (None for a base), method, seed, prompt_id, metric, value.
        """
        return self._tidy(self.everything, lambda source: self.samples(source).readouts)

    @cached_property
    def snapshots(self) -> pd.DataFrame:
        """Scores of the snapshots (step 0: the base) on the first validation prompts, or on those
        of the set that a sweep trained on.

        Columns: reward, method, seed, step, prompt_id, metric, value. Beside the scorers the
        metric is squared_distance (Σ_k d² to the base along the sample's own chain) or kl, its
        half (nats).
        """
        scores = self._tidy(
            self._with_snapshots, lambda source: self.layout.snapshots(source.name).scores, "step"
        )
        distance = only(scores, metric="squared_distance")
        kl = distance.assign(metric="kl", value=distance["value"] / 2)
        return pd.concat([scores, kl], ignore_index=True)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """One row per training step: reward (trained on), method, seed and the columns of
        history.csv, whose own `reward` (the batch's mean) is here `mean_reward`."""
        return self._concatenate(
            self.trained, lambda source: self.layout.cell(source.name).history, ["step"]
        )

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """How far gradients of single images scatter, by several methods at the same weights.

        Columns: reward; weights, the method at whose end they are, or "" where all trainings start;
        seed; gradient, the method that takes it; images; squared_mean and variance, as
        `rocm_core.training.gradients` has them; signal, the share of the first in their sum, which
        does not depend on the loss's unit: 1 without noise, about 0, on either side, where the
        noise drowns the mean, and NaN where all gradients are zero.
        """
        columns = ["at", "gradient", "images", "squared_mean", "variance"]
        path_of = lambda source: self.layout.cell(source.name).gradients  # noqa: E731
        found = self._concatenate(self._with_gradients, path_of, columns)
        signal = found["squared_mean"] / (found["squared_mean"] + found["variance"])
        weights = found["method"].where(found["at"] == "end", "")
        return found[["reward", "seed", *columns[1:]]].assign(weights=weights, signal=signal)

    def compared_gradients(self, reward: str) -> list[str]:
        """The methods of a reward whose gradients are compared at each other's weights."""
        return list(dict.fromkeys(s.method for s in self._with_gradients if s.reward == reward))

    @cached_property
    def _base_runs(self) -> dict[str, BaseRun]:
        return base_runs(self.config, self.cells)

    @cached_property
    def _with_gradients(self) -> list[Source]:
        return [
            source
            for source in self.trained
            if source.cell and compared_gradients(self.config, self.cells, source.cell)
        ]

    def gains(self, source: Source) -> pd.DataFrame | None:
        """One training's steps, costs and rewards; with `base_rewards` the reward is less what the
        base scores on the same prompts and noise. None where there is none (partial)."""
        history = self.history(
            source, ["step", "reward", "training_seconds", "reward_queries", "nfe"]
        )
        run = self._base_runs.get(source.name)
        if history is None or run is None:
            return history
        path = self.layout.found(self.layout.base_rewards(run.policy, run.key))
        base = self._read_csv(path, ["step", "metric", "value"], source.reward)
        if base is None:
            return None
        own = base.set_index("step")["value"].reindex(history["step"])
        if own.isna().any():
            raise UserError(f"{path} lacks steps of {source.name}; remake it")
        return history.assign(reward=history["reward"] - own.to_numpy())

    def history(
        self, source: Source, columns: list[str], unfinished: bool = False
    ) -> pd.DataFrame | None:
        """Some columns of one training's history.csv; None where there is none (partial).

        unfinished: of one that still runs, or was interrupted, the rows so far (partial).
        """
        path = self.layout.cell(source.name).history
        if unfinished and self.config.partial and not path.exists():
            path = self.layout.run(source.name).history
        frame = self._read_csv(path, columns)
        return None if frame is None else frame[columns]

    def nfe(self, reward: str, method: str) -> pd.Series | None:
        """NFE until each step of a method's training, which all seeds share; None where there is no
        history (partial)."""
        found = (self.history(one, ["step", "nfe"]) for one in self.sources(reward, method))
        longest = max((one for one in found if one is not None), key=len, default=None)
        return None if longest is None else longest.set_index("step")["nfe"]

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """The training manifest of each cell, by the cell's name."""
        paths = {s.name: self.layout.cell(s.name).manifest for s in self.trained}
        read = {name: self._read_manifest(path) for name, path in paths.items()}
        return {name: manifest for name, manifest in read.items() if manifest is not None}

    def seconds_per_image(self, source: Source, steps: int) -> float | None:
        """At a number of inference steps, model loaded; None: not measured (partial)."""
        path = self.folder(source, "validation", steps).manifest
        manifest = self._read_manifest(path)
        if manifest is not None and "seconds_per_image" not in manifest:
            raise UserError(f"{path} has no seconds_per_image: generate the images again")
        return None if manifest is None else float(manifest["seconds_per_image"])

    @cached_property
    def outcomes(self) -> list[dict[str, Any]] | None:
        """What the raters of the user study said, one entry per comparison and question: the fields
        of `rocm_core.study.aggregate.Outcome.flat`. None before votes are aggregated."""
        path = self.layout.outcomes
        if not path.exists():
            return None
        return self.entries(path, "outcomes", "a study's results", "aggregate the votes again")

    def votes(self, question: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The `outcomes` of one question by their two models, in either order: `win_rate` is that
        of the key's first; counts are as the study has them."""
        asked = [vote for vote in self.outcomes or () if vote["question"] == question]
        mirrored = {(vote["second"], vote["first"]): _mirrored(vote) for vote in asked}
        return mirrored | {(vote["first"], vote["second"]): vote for vote in asked}

    @cached_property
    def simulated(self) -> bool:
        """Whether simulated raters voted in the user study, and no people."""
        path = self.layout.outcomes
        said = self._read_manifest(path) if path.exists() else None
        return bool(said and said.get("simulated"))

    @cached_property
    def comparisons(self) -> list[tuple[str, str]]:
        """What the user study compares: pairs of models. A name that stands for the best of several
        is that of the chosen one, once votes are aggregated."""
        study, path = self.config.study, self.layout.outcomes
        said = self._read_manifest(path) if path.exists() else {}
        try:
            models = {
                name: choice["model"] for name, choice in (said or {}).get("chosen", {}).items()
            }
        except (AttributeError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is not a study's results ({error}): aggregate the votes again"
            ) from None
        return [(models.get(a, a), models.get(b, b)) for a, b in study.comparisons] if study else []

    @cached_property
    def gaps(self) -> list[str]:
        """Artefacts of the configuration that do not exist, relative to the results directory."""
        wanted = [
            self.folder(source, name, steps).scores
            for source in self.everything
            for name, steps in self.sample_sets(source)
        ]
        wanted += [
            self.folder(source, name, drawn).scores
            for source in self.trained
            for name, drawn in scaled_sets(self.config, source.cell or source.policy)
        ]
        main = [self.samples(source) for source in self.everything]
        wanted += [files.readouts for files in main]
        wanted += [files.published for files in main if self.config.published]
        runs = {run.key: run for run in self._base_runs.values()}
        shared = (self.layout.base_rewards(run.policy, key) for key, run in runs.items())
        wanted += map(self.layout.found, shared)
        for source in self.trained:
            cell = self.layout.cell(source.name)
            wanted += [cell.manifest, cell.history]
            wanted += [self.layout.snapshots(source.name).scores] * (source in self._with_snapshots)
            wanted += [cell.gradients] * (source in self._with_gradients)
        return [str(p.relative_to(self.root)) for p in wanted if not p.exists()]

    def sample_sets(self, source: Source) -> list[tuple[str, int]]:
        """The (prompt set, inference steps) of a source's images, the main one first."""
        return sample_sets(self.config, self.evaluation_sets, source.cell or source.policy)

    def folder(self, source: Source, prompt_set: str, steps: int | str) -> SampleFiles:
        """A source's images of a prompt set."""
        return self.layout.samples(source.name, prompt_set, steps)

    def samples(self, source: Source) -> SampleFiles:
        """The images that tables and figures are about."""
        return self.folder(source, *self.sample_sets(source)[0])

    def lora(self, source: Source) -> Path:
        """The LoRA that made a trained model's images."""
        files = self.layout.cell(source.name)
        return files.best if source.cell and source.cell.settings.stop_by else files.lora

    def image(self, source: Source, prompt_id: str) -> Path | None:
        """The image of one validation prompt; None where it does not exist (partial, shards)."""
        return self._image(source, self.samples(source).image(prompt_id))

    def snapshot_image(self, source: Source, step: int, prompt_id: str) -> Path | None:
        """The image by a training's snapshot, as `image`; step 0 is the base."""
        return self._image(source, self.layout.snapshots(source.name).image(step, prompt_id))

    def _image(self, source: Source, path: Path) -> Path | None:
        may_lack = self.config.partial or source.name in self.layout.sharded
        return None if may_lack and not path.exists() else self.existing(path)

    def scores(self, method: str, metric: str, reward: str | None = None) -> pd.Series:
        """Final score of each prompt, averaged over seeds, indexed by prompt id.

        `reward` is the training reward; a base has none. Empty where nothing exists (partial).
        """
        reward = reward if self.models[method].cell else None
        scores = only(self.final, reward=reward, method=method, metric=metric)
        if scores.empty and not self.config.partial:
            source = f"{reward}/{method}" if reward else method
            raise UserError(f"the scores of {source} in {self.root} lack {metric}: score it again")
        return per_prompt(scores)

    def change(self, reward: str, method: str, metric: str) -> Estimate | None:
        """What training changed of a metric against the own base, paired by prompt; None where they
        have none in common, as where scores are missing (partial).

        The interval is over prompts and, where there are several, training seeds, as `compare` has
        it; of a single training it says nothing about others.
        """
        mean, before = self.scores(method, metric, reward), self.base_of(reward, method)
        own = only(self.final, reward=reward, method=method, metric=metric)
        seeds = own.pivot(index="seed", columns="prompt_id", values="value").dropna(axis=1)
        after, control = seeds.align(self.scores(before, metric), join="inner", axis=1)
        if min(after.shape) > 1:
            return compare(after, control.to_numpy()[None]).difference
        return paired_difference(mean, control) if len(control) else None

    def scores_on(
        self, sources: Sequence[Source], metric: str, prompt_set: str, steps: int | str
    ) -> tuple[pd.Series, int]:
        """One metric of each prompt of a set at a number of inference steps, averaged over those
        sources that have it, and how many these are. Only what is asked for is kept in memory."""
        combined, scores = metric in self.config.ensembles, []
        for source in sources:
            path = self.folder(source, prompt_set, steps).scores
            frame = self._read_csv(path, _SCORES, None if combined else metric)
            if frame is not None and combined:
                frame = only(self._with_ensembles(source, frame), metric=metric)
            if frame is not None:
                scores.append(frame)
        return per_prompt(pd.concat(scores)) if scores else pd.Series(dtype=float), len(scores)

    def seeds(self, reward: str, method: str) -> int | None:
        """How many training seeds the final scores of a method hold; None for a base."""
        own = only(self.final, reward=reward, method=method)
        return own["seed"].nunique() if self.models[method].cell else None

    def has_snapshots(self, reward: str, method: str) -> bool:
        """Whether the configuration has snapshots of this method evaluated."""
        return any(s.reward == reward and s.method == method for s in self._with_snapshots)

    def methods_with_snapshots(
        self, reward: str | None = None, *, tricks: bool = False
    ) -> list[str]:
        """The methods of a reward (None: of any) whose snapshots are evaluated, without sweeps but
        those of settings against reward hacking if asked for."""
        own = [s for s in self._with_snapshots if reward in (None, s.reward)]
        evaluated = {s.method for s in own if s.has_trick or not s.swept}
        return [method for method in self.methods(reward, sweeps=tricks) if method in evaluated]

    @cached_property
    def _with_snapshots(self) -> list[Source]:
        kept = [s for s in self.trained if s.cell and s.cell.settings.snapshot_every]
        return kept if self.config.snapshots.prompts else []

    def _tidy(
        self, sources: list[Source], path_of: Callable[[Source], Path], *more: str
    ) -> pd.DataFrame:
        """The scores in one file per source: reward, method, seed, `more` columns, `_SCORES`."""
        columns = [*more, *_SCORES]
        return self._concatenate(sources, path_of, columns)[[*_KEYS, *columns]]

    def _concatenate(
        self, sources: list[Source], path_of: Callable[[Source], Path], columns: list[str]
    ) -> pd.DataFrame:
        """The files of sources below each other, with each source's reward, method and seed."""
        return self._stacked(sources, lambda s: self._read_csv(path_of(s), columns), columns)

    def _stacked(
        self,
        sources: list[Source],
        read: Callable[[Source], pd.DataFrame | None],
        columns: list[str],
    ) -> pd.DataFrame:
        frames = [
            self._with_ensembles(source, frame)
            .rename(columns={"reward": "mean_reward"})
            .assign(reward=source.reward, method=source.method, seed=source.seed)
            for source in sources
            if (frame := read(source)) is not None
        ]
        if not frames:
            return pd.DataFrame(columns=[*_KEYS, *columns])
        return pd.concat(frames, ignore_index=True)

    def _with_ensembles(self, source: Source, scores: pd.DataFrame) -> pd.DataFrame:
        """Scores by each metric, followed by what the ensembles of the configuration, as the
        policy's trainings have them, make of their members', where all of these are there."""
        for name, ensemble in self.config.ensembles.items() if "metric" in scores else ():
            own = scores[scores["metric"].isin([*ensemble.of])]
            standards = self._standards(name, source.policy)
            if standards is None or not {*ensemble.of} <= {*own["metric"]}:
                continue
            keys = [key for key in ("step", "prompt_id") if key in own]
            wide = own.pivot_table("value", keys, "metric", sort=False).dropna()
            combined = combine(wide, ensemble, standards).rename("value").reset_index()
            scores = pd.concat([scores, combined.assign(metric=name)], ignore_index=True)
        return scores

    def _standards(self, reward: str, policy: str) -> Standards | None:
        """The base's scores by the members of an ensemble; None where nothing of the policy trains
        on it, or they are not measured yet (partial)."""
        own = [c.settings for c in self.cells if (c.reward, c.settings.policy) == (reward, policy)]
        if not own:
            return None
        path = self.layout.standards(policy, own[0].prompts, standardised(own[0]))
        measured = self._read_manifest(self.layout.found(path))
        return measured and measured["scorers"]

    def existing(self, path: Path) -> Path:
        """`path`, noted as read with its sha256; raises `UserError` where there is none, or another
        than its manifest lists."""
        if not path.exists():
            otherwise = "" if self.config.partial else ", or set partial=true to render without it"
            raise UserError(f"{path} does not exist: finish the run first{otherwise}")
        self.files_read |= hash_inputs([path])
        return path

    def entries(self, path: Path, key: str, name: str, remedy: str) -> list[dict[str, Any]]:
        """The list below a key of a JSON file; where there is none, raises `UserError` with what
        the file should be and the remedy."""
        try:
            return list(json.loads(self.existing(path).read_text(encoding="utf-8"))[key])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not {name} ({error}): {remedy}") from None

    def _read_manifest(self, path: Path) -> dict[str, Any] | None:
        if self.config.partial and not path.exists():
            return None
        try:
            said = json.loads(self.existing(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); remake it") from None
        if not isinstance(said, dict):
            raise UserError(f"{path} is not a JSON object; remake it")
        return said

    def _read_csv(
        self, path: Path, columns: list[str], metric: str | None = None
    ) -> pd.DataFrame | None:
        """A file's rows (of one metric); None where it does not exist (partial)."""
        if self.config.partial and not path.exists():
            return None
        try:
            frame = pd.read_csv(self.existing(path), **CSV_OPTIONS)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a readable CSV file ({error}); remake it") from None
        lacking = [c for c in columns if c not in frame.columns]
        if lacking:
            raise UserError(f"{path} has no column {lacking[0]}; remake it")
        for name, column in frame.items():
            if name not in CSV_OPTIONS["dtype"] and column.dtype.kind not in "iuf":
                raise UserError(
                    f"{path} holds a {name} that is not finite or not a number; remake it"
                )
        if "value" in columns and not np.isfinite(frame["value"]).all():
            raise UserError(f"{path} holds a score that is not finite; remake it")
        if metric is None:
            return frame
        if metric not in set(frame["metric"]):
            raise UserError(f"{path} lacks {metric}: score the images again")
        return only(frame, metric=metric)


def only(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows of a frame whose columns have these values; None stands for a missing value."""
    for column, value in values.items():
        frame = frame[frame[column].isna() if value is None else frame[column] == value]
    return frame


def thinned(frame: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """At most so many rows of a curve, evenly spread, its ends included."""
    chosen = np.unique(np.linspace(0, len(frame) - 1, min(points, len(frame))).round().astype(int))
    return frame.iloc[chosen].reset_index(drop=True)


def _mirrored(vote: dict[str, Any]) -> dict[str, Any]:
    """The same votes, as shares of those for the second model."""
    rate, low, high = (vote[key] for key in ("win_rate", "win_rate_low", "win_rate_high"))
    ends = {} if low is None else {"win_rate_low": 1 - high, "win_rate_high": 1 - low}
    return vote | ends | {"win_rate": 1 - rate}
