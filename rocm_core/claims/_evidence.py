"""What claims are decided by: scores as matrices of seeds and prompts, and fair choices among them.

A choice among several trainings or snapshots flatters itself on the prompts that it was made on. So
it is made twice, on either half of the prompts, and each choice is scored on the other half.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rocm_core.analysis import (
    GOLD,
    Comparison,
    Results,
    Source,
    average_deviation,
    compare,
    compare_differences,
    held_out,
    metric_label,
    only,
)
from rocm_core.grid import METHODS, searched, snapshot_steps, trials_of

BASELINES = tuple(METHODS)

# A candidate for a choice: a method at a step of its training; None: its final model.
Candidate = tuple[str, int | None]
Scores = pd.DataFrame  # seeds (0 for a base) × prompt ids


class Undecidable(Exception):
    """Why these data do not decide a comparison."""


class NotConfigured(Undecidable):
    """What the configuration would need for a comparison."""


class Evidence:
    """The results of a run, read for claims. What is missing raises `Undecidable`."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.config = results.config
        self.rewards = results.rewards
        self.label = results.label
        self._known: dict[tuple[str, Candidate, str], Scores] = {}
        self._units: dict[tuple[str, str], float] = {}

    def named(self, reward: str | None, method: str) -> str:
        """A model in a sentence: "RLCM trained on HPSv2"; a base has no reward."""
        on = f" trained on {metric_label(reward)}" if reward else ""
        return self.label(method) + on

    @property
    def judge(self) -> str:
        """What stands for people: the gold judge, else the held-out scorers (`held_out`)."""
        return GOLD if GOLD in self.config.metrics else "held_out"

    def methods(self, reward: str, families: Iterable[str]) -> list[str]:
        """Trained methods of some families with their swept settings, as configured first.

        Neither those trained on other prompts are part of the same search, nor a β of 0, which is
        no divergence, nor those with a setting against reward hacking, which are asked about on
        their own.
        """
        wanted = set(families)
        every = [self.results.models[m] for m in self.results.methods(reward, sweeps=True)]
        tries = [s for s in every if s.family in wanted and not s.has_trick]
        return [s.method for s in tries if "prompts" not in s.swept and s.swept.get("beta") != 0]

    def tries(self, reward: str, one: str, other: str) -> tuple[list[str], list[str]]:
        """The tries of two families: the trials of their searches or, where not both have some,
        their trainings with swept settings."""
        first, second = (
            [trial.variant for trial in trials_of(self.results.cells, reward, family)]
            for family in (one, other)
        )
        if first and second:
            return first, second
        return self.methods(reward, [one]), self.methods(reward, [other])

    def tuned_alike(self, reward: str, one: str, other: str) -> bool:
        """Whether both families have settings to choose from: several trainings of each, or a
        search of each, of what is configured, whatever else is swept."""
        arms = [self.methods(reward, [family]) for family in (one, other)]
        cells = [self.results.sources(reward, arm[0])[0].cell for arm in arms]
        return min(map(len, arms)) > 1 or all(cell and searched(cell.settings) for cell in cells)

    def regularised(self, reward: str) -> list[str]:
        """The families of ROCM with a divergence."""
        return [s.method for s in self._unswept(reward) if s.is_rocm and s.divergence != "none"]

    def baselines(self, reward: str) -> list[str]:
        """The methods of other papers, as configured."""
        return [s.method for s in self._unswept(reward) if s.method in BASELINES]

    def on_policy(self, reward: str, policy: str) -> list[str]:
        """Methods as configured whose policy this is."""
        return [source.method for source in self._unswept(reward) if source.policy == policy]

    def held_out_metrics(self, reward: str) -> list[str]:
        """The scorers held out from trainings on `reward`; the gold judge is not one."""
        return held_out(self.config.metrics, self.results.used(reward))

    def final(self, reward: str, method: str, metric: str) -> Scores:
        """Scores of the final models on the validation prompts."""
        return self.scores(reward, (method, None), metric)

    def base(self, reward: str, method: str, metric: str) -> Scores:
        """Scores of the base model that a method started from, in one row."""
        if metric == "held_out":
            return self._index(reward, lambda name: self.base(reward, method, name))
        return self._complete(self._final, "", self.results.base_of(reward, method), metric)

    def steps(self, reward: str, method: str) -> list[int]:
        """The steps at which snapshots of a method were kept and evaluated."""
        if not self.results.has_snapshots(reward, method):
            raise NotConfigured(
                f"no snapshots of {self.named(reward, method)}: set snapshot_every and snapshots"
            )
        cell = self.results.sources(reward, method)[0].cell
        assert cell is not None  # a base has no snapshots
        return snapshot_steps(cell.settings)

    def scores(self, reward: str, candidate: Candidate, metric: str) -> Scores:
        """Scores of final models on the validation prompts, of snapshots on theirs, which
        are the first of these."""
        key = reward, candidate, metric
        if key not in self._known:
            self._known[key] = self._scores(*key)
        return self._known[key]

    def _scores(self, reward: str, candidate: Candidate, metric: str) -> Scores:
        if metric == "held_out":
            return self._index(reward, lambda name: self.scores(reward, candidate, name))
        method, step = candidate
        if step is None:
            return self._complete(self._final, reward, method, metric)
        return self._complete(self._snapshots, reward, method, metric, step)

    def chosen(
        self, reward: str, candidates: Sequence[Candidate], metric: str, by: str = "held_out"
    ) -> Scores:
        """Cross-fitted: select the candidate that is best by `by`, averaged over seeds, on one half
        of the prompts, and score it by `metric` on the other half."""
        if not candidates:
            raise Undecidable("nothing to choose from")
        means = [self.scores(reward, candidate, by).mean() for candidate in candidates]
        table = pd.concat(means, axis=1, join="inner").sort_index()
        if len(table) < 2:
            raise Undecidable("fewer than two prompts in common")
        halves = table.iloc[::2], table.iloc[1::2]
        best = [candidates[int(half.to_numpy().mean(0).argmax())] for half in halves]
        scored = [
            self.scores(reward, choice, metric)[half.index]
            for half, choice in zip(halves, reversed(best), strict=True)
        ]
        return pd.concat(scored, axis=1)

    def finals(self, reward: str, families: Iterable[str]) -> list[Candidate]:
        """The final models of some methods and their swept settings."""
        return [(method, None) for method in self.methods(reward, families)]

    def best(self, reward: str, methods: Sequence[str], metric: str) -> Scores:
        """Scores of the best of these final models, as configured (`chosen`)."""
        return self.chosen(reward, [(method, None) for method in methods], metric)

    def gain(self, reward: str, methods: Sequence[str], metric: str) -> Scores:
        """What the best of these models changed against their base, in standard deviations of the
        base's scores over prompts."""
        after, before = aligned(
            self.best(reward, methods, metric), self.base(reward, methods[0], metric)
        )
        if not (unit := float(before.iloc[0].std())) > 0:
            raise Undecidable("all scores of the base are equal")
        return (after - before.to_numpy()) / unit

    def at_steps(self, reward: str, method: str, prompt_set: str, steps: int) -> Scores:
        """Scores by the training reward on a prompt set at a number of inference steps, of a
        method or of a base."""
        scores = {
            source.seed or 0: self._on(source, reward, prompt_set, steps)
            for source in self.results.sources(reward, method)
        }
        return pd.DataFrame(scores).T.dropna(axis=1)

    def readout(self, reward: str, method: str, name: str) -> Scores:
        """A read-out of each validation image of the final models, or of a base."""
        trained_on = reward if self.results.models[method].cell else ""
        return self._complete(self._readouts, trained_on, method, name)

    def beta(self, reward: str, method: str) -> float:
        """The weight of a method's divergence, that of the first seed where it was measured."""
        return self.results.beta(self.results.sources(reward, method)[0])

    def nfe(self, reward: str, method: str) -> list[tuple[int, float]]:
        """(step, NFE until then) of every snapshot of a method."""
        self.require(reward, method)
        spent = self.results.nfe(reward, method)
        steps = self.steps(reward, method)
        if spent is None or not {*steps} <= {*spent.index}:
            raise Undecidable(f"cell {self.results.sources(reward, method)[0].name} missing")
        return [(step, float(spent.loc[step])) for step in steps]

    def within(self, reward: str, method: str, limit: float) -> list[Candidate]:
        """The snapshots of a method within some NFE, of which there must be one."""
        steps = [step for step, nfe in self.nfe(reward, method) if nfe <= limit]
        if not steps:
            raise Undecidable(
                f"no snapshot of {self.named(reward, method)} within {limit:,.0f} NFE"
            )
        return [(method, step) for step in steps]

    def signal(self, reward: str, weights: str, gradient: str) -> pd.Series:
        """The share of the mean in one image's gradient, by seed: of the method `gradient`, at the
        end of trainings of the method `weights`; "": at the start, which all share."""
        sources = self.results.sources(reward, gradient)
        if len(sources) < 2:
            raise NotConfigured(
                "one training seed: gradients are compared over seeds, so two are needed"
            )
        where = {"reward": reward, "weights": weights, "gradient": gradient}
        found = only(self.results.gradients, **where).set_index("seed")["signal"]
        at = f"the end of {self.label(weights)}" if weights else "the start"
        those = f"gradients by {self.named(reward, gradient)} at {at}, seed"
        for source in sources:
            if source.seed not in found.index:
                raise Undecidable(f"no {those} {source.seed}")
            if source.seed not in found.dropna().index:
                raise Undecidable(f"all {those} {source.seed}, are zero")
        return found.sort_index()

    def require(self, reward: str, method: str) -> None:
        """Raises `Undecidable` unless every training of a method is there."""
        for source in self.results.sources(reward, method):
            if source.name not in self.results.manifests:
                raise Undecidable(f"cell {source.name} missing")

    def effects(self, treated: Scores, control: Scores) -> Scores:
        """Differences in standard deviations over prompts, as `Comparison` counts effects."""
        treated, control = aligned(treated, control)
        unit = average_deviation(treated.mean().to_numpy(), control.mean().to_numpy())
        if not unit > 0:
            raise Undecidable("all scores are equal")
        return (treated - control.to_numpy()) / unit

    def _on(self, source: Source, metric: str, prompt_set: str, steps: int) -> pd.Series:
        if (prompt_set, steps) not in self.results.sample_sets(source):
            model = self.named(source.reward, source.method)
            raise NotConfigured(f"no images of {model} on {prompt_set} at {steps} steps")
        scores, sources = self.results.scores_on([source], metric, prompt_set, steps)
        if not sources:
            raise Undecidable(f"cell {source.name} missing")
        return scores

    def _unswept(self, reward: str) -> list[Source]:
        return [self.results.models[method] for method in self.results.methods(reward)]

    def _index(self, reward: str, scores: Callable[[str], Scores]) -> Scores:
        """Mean of the held-out scorers, each in the unit of `_unit`."""
        metrics = self.held_out_metrics(reward)
        if not metrics:
            raise NotConfigured(f"no scorer is held out from {metric_label(reward)}")
        standard = [scores(metric) / self._unit(reward, metric) for metric in metrics]
        index = (sum(standard[1:], standard[0]) / len(standard)).dropna(axis=1)
        if index.empty:
            raise Undecidable("scores of fewer than two prompts have no deviation, so no unit")
        return index

    def _unit(self, reward: str, metric: str) -> float:
        """Standard deviation of a metric over prompts, the mean of the variances of the models
        trained on a reward and their bases; so that no scorer counts more than another."""
        if (reward, metric) not in self._units:
            variances = [
                float(scores.mean().var(ddof=1))
                for (trained_on, _, name), scores in self._final.items()
                if name == metric and trained_on in ("", reward)
            ]
            self._units[reward, metric] = float(np.mean(variances)) ** 0.5 or 1.0
        return self._units[reward, metric]

    def _complete(
        self, scores: Mapping[tuple, Scores], reward: str, method: str, *rest: str | int
    ) -> Scores:
        """The scores of a method, or of a base without a reward, if no seed is missing."""
        own = scores.get((reward, method, *rest), pd.DataFrame())
        for source in self.results.sources(reward, method):
            if (source.seed or 0) not in own.index:
                lost = f"cell {source.name}" if source.cell else self.label(method)
                raise Undecidable(f"{lost} missing")
        return own

    @cached_property
    def _final(self) -> dict[tuple, Scores]:
        return _matrices(self.results.final)

    @cached_property
    def _readouts(self) -> dict[tuple, Scores]:
        return _matrices(self.results.readouts)

    @cached_property
    def _snapshots(self) -> dict[tuple, Scores]:
        return _matrices(self.results.snapshots, "step")


def _matrices(frame: pd.DataFrame, *more: str) -> dict[tuple, Scores]:
    """{(reward or "", method, metric, *more): seeds × the prompts that all of them have}."""
    if frame.empty:
        return {}
    keys = ["reward", "method", "metric", *more]
    frame = frame.fillna({"reward": "", "seed": 0}).astype({"seed": int})
    wide = frame.pivot_table("value", [*keys, "seed"], "prompt_id", aggfunc="mean")
    groups = wide.groupby(level=keys, sort=False)
    return {key: rows.droplevel([*keys]).dropna(axis=1, how="any") for key, rows in groups}


def aligned(treated: Scores, control: Scores) -> tuple[Scores, Scores]:
    """Both on their common prompts and, unless the control is a base, their common seeds."""
    treated, control = treated.sort_index(axis=1), control.sort_index(axis=1)
    if not treated.columns.equals(control.columns):
        prompts = treated.columns.intersection(control.columns, sort=False)
        treated, control = treated[prompts], control[prompts]
    if treated.shape[1] < 2:
        raise Undecidable("fewer than two prompts in common")
    if len(control) == 1:
        return treated, control
    seeds = sorted(set(treated.index) & set(control.index))
    if not seeds:
        raise Undecidable("no training seed in common")
    return treated.loc[seeds], control.loc[seeds]


def compared(treated: Scores, control: Scores) -> Comparison:
    """Treated less control on the prompts and seeds that both have."""
    after, before = aligned(treated, control)
    return compare(after.to_numpy(), before.to_numpy())


def pooled(effects: Sequence[Scores]) -> Comparison:
    """The mean of several matrices of effects (`averaged`)."""
    return compare_differences(averaged(effects), standardised=True)


def averaged(matrices: Sequence[Scores]) -> NDArray[np.float64]:
    """The mean of several matrices, on the prompts and seeds that all of them have."""
    if not matrices:
        raise Undecidable("nothing to average")
    prompts = sorted(set.intersection(*(set(one.columns) for one in matrices)))
    seeds = sorted(set.intersection(*(set(one.index) for one in matrices)))
    if len(prompts) < 2 or not seeds:
        raise Undecidable("no prompts or training seeds in common")
    return np.mean([one.loc[seeds, prompts].to_numpy() for one in matrices], axis=0)
