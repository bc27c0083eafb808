"""Which claims a configuration can decide, before it is run.

The ledger itself decides them, on results that are drawn as if every cell were there. Effects and
spreads are those of the embedded study; seeds, prompts, snapshots, steps and costs are the
configuration's. What that assumes:

- A training of any length gains by its end what the study's did by theirs. A swept β or learning
  rate changes that as in the study: no β gains more than no divergence does, and no learning rate
  more than the method's own, since the study's are the best of a search.
- The spread between prompts does not shrink with more seeds.
- Further prompt sets and numbers of inference steps show what the validation prompts show.
- The share of signal in gradients is the study's, and between seeds differs by half of it.
- The votes of a user study come in, and prefer ROCM by the mean of the study's.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from rocm_core.analysis import ROCM_NONE, Results, Source, coarsely
from rocm_core.claims._assumed import OWN, Assumed, assumed
from rocm_core.claims._evidence import Evidence, Scores
from rocm_core.claims._verdict import (
    CONFIRMED,
    FAILS,
    HOLDS,
    NOT_TESTED,
    REFUTED,
    UNDECIDED,
    Claim,
    Verdict,
    decide,
    first_of,
)
from rocm_core.claims.ledger import CLAIMS
from rocm_core.configuration import Config, Search
from rocm_core.grid import (
    STABLE_DIFFUSION,
    UNKNOWN_PROMPTS,
    costs_of,
    images_per_iteration,
    snapshot_prompts,
    snapshot_steps,
    training_work,
)
from rocm_core.prompts import prompt_count

REHEARSALS = 12
RESAMPLES = 4000
PROMPTS = 100  # drawn at most, whose spread is scaled so that their mean is as certain as of all
SNAPSHOTS = 4  # of a training, or few more
ROWS = 200  # of a history at most


@dataclass(frozen=True)
class Prospect:
    """What a configuration can say about a claim.

    power: the share of rehearsals that decide it, be it by a tie. missing: what keeps it from being
    confirmed, or from being refuted, whatever the numbers; None: nothing does.
    """

    claim: Claim
    power: float
    missing: str | None


def prospects(
    config: Config,
    claims: Sequence[Claim] = CLAIMS,
    *,
    rehearsals: int = REHEARSALS,
    record: Assumed | None = None,
) -> list[Prospect]:
    """The prospects of claims, always the same for a configuration."""
    drawn = [Rehearsal(config, record or assumed(), seed) for seed in range(rehearsals)]
    with coarsely(RESAMPLES):
        return [_prospect(claim, drawn) for claim in claims]


def _prospect(claim: Claim, drawn: Sequence[Evidence]) -> Prospect:
    verdicts = [decide(claim, drawn[0])]
    if missing := _missing(verdicts[0]):
        return Prospect(claim, 0.0, missing)
    if any(finding.part.comparison for finding in verdicts[0].findings):  # else all are the same
        verdicts += [decide(claim, evidence) for evidence in drawn[1:]]
    decided = fmean(verdict.verdict not in (UNDECIDED, NOT_TESTED) for verdict in verdicts)
    return Prospect(claim, decided, None)


def _missing(verdict: Verdict) -> str | None:
    """Why a claim would not be confirmed if every part held, or refuted if every part failed."""
    if not verdict.findings:
        return verdict.reason
    for outcome, expected in ((HOLDS, CONFIRMED), (FAILS, REFUTED)):
        alike = [f if f.part.missing else replace(f, outcome=outcome) for f in verdict.findings]
        if verdict.claim.rule.decide(alike)[0] != expected:
            gaps = [*dict.fromkeys(f.part.missing for f in alike if f.part.missing)]
            return first_of(gaps) if gaps else f"needs {verdict.claim.needs}"
    return None


class Rehearsal(Evidence):
    """Evidence whose scores are drawn, in standard deviations over prompts."""

    def __init__(self, config: Config, record: Assumed, seed: int) -> None:
        self._drawn = _Drawn(config, record, seed)
        super().__init__(self._drawn)
        self._final = self._readouts = self._snapshots = {}  # `_complete` draws what is asked for

    def _complete(
        self, scores: Mapping[tuple, Scores], reward: str, method: str, *rest: str | int
    ) -> Scores:
        return self._drawn.matrix(reward, method, *rest)

    def _on(self, source: Source, metric: str, prompt_set: str, steps: int) -> pd.Series:
        if (prompt_set, steps) not in self.results.sample_sets(source):
            return super()._on(source, metric, prompt_set, steps)  # raises, saying so
        scores = self._drawn.matrix(source.reward or "", source.method, metric)
        return pd.Series(scores.loc[source.seed or 0])

    def _index(self, reward: str, scores: Callable[[str], Scores]) -> Scores:
        metrics = self.held_out_metrics(reward)
        if not metrics:
            return super()._index(reward, scores)  # raises, saying so
        drawn = [scores(metric) for metric in metrics]  # in standard deviations already
        mean = np.mean([one.to_numpy() for one in drawn], axis=0)
        return pd.DataFrame(mean, drawn[0].index)

    def steps(self, reward: str, method: str) -> list[int]:
        """Some of the steps, the last among them, for a choice among snapshots."""
        every = super().steps(reward, method)
        return every[:: -max(1, len(every) // SNAPSHOTS)][::-1]

    def signal(self, reward: str, weights: str, gradient: str) -> pd.Series:
        """Drawn around the study's."""
        sources = self.results.sources(reward, gradient)
        if len(sources) < 2:
            return super().signal(reward, weights, gradient)  # raises, saying so
        cell = self.results.models[gradient].cell
        assert cell is not None
        mean = self._drawn.record.signal(cell.settings.backpropagates)
        normal = self._drawn._normal("gradients", reward, weights, gradient)
        return pd.Series(mean * (1 + normal(len(sources)) / 2), [s.seed for s in sources])

    def nfe(self, reward: str, method: str) -> list[tuple[int, float]]:
        """That of all snapshots."""
        super().steps(reward, method)  # or there are none
        history = self._drawn.history(self.results.sources(reward, method)[0], ["step", "nfe"])
        return list(history.itertuples(index=False, name=None))


class _Drawn(Results):
    """Results of which the ledger reads nothing from files."""

    def __init__(self, config: Config, record: Assumed, seed: int) -> None:
        super().__init__(config, config.root)
        self.record, self.seed = record, seed
        self.main = {(c.reward, c.method): c.settings for c in self.cells if not c.swept}
        self._matrices: dict[tuple[Any, ...], Scores] = {}

    def matrix(self, reward: str, method: str, metric: Any, step: Any = None) -> Scores:
        """Scores (seeds, prompts) of a method, or of a base; of its snapshots at a step."""
        key = reward, method, metric, step
        if key not in self._matrices:
            self._matrices[key] = self._draw(*key)
        return self._matrices[key]

    def _draw(self, reward: str, method: str, metric: str, step: int | None) -> Scores:
        source = self.sources(reward, method)[0]
        count = self._validation if step is None else snapshot_prompts(self.config)
        drawn = min(count, PROMPTS)
        # Fewer prompts, which differ by less.
        scale = (drawn / count) ** 0.5
        level = self._normal(metric)(drawn)
        if source.policy == "diffusion":
            apart = self.record.record["policies"] * scale * self._normal(metric, "policy")(drawn)
            level = level + self.record.record["diffusion_base"].get(metric, 0.0) + apart
        if source.cell is None:
            return pd.DataFrame([level])
        seeds = [source.seed for source in self.sources(reward, method)]
        effect, normal = self.effect(source, metric), self._normal(reward, method, metric)
        over_seeds = self.record.seeds(effect) * normal(len(seeds))
        over_prompts = self.record.prompts(effect) * scale * normal(drawn)
        share = 1.0 if step is None else step / source.cell.settings.iterations
        progress = self.record.progress(share)
        changes = progress * (effect + over_seeds[:, None] + over_prompts)
        return pd.DataFrame(level + changes, seeds)

    def effect(self, source: Source, metric: str) -> float:
        """What a training changes of a metric in the end."""
        cell = source.cell
        assert cell is not None and source.reward is not None
        effect = self.record.effect(source.reward, source.family, cell.settings, metric)
        ratio = 1.0
        for setting, value in source.swept.items():
            if slope := self.record.record["slopes"].get(setting):
                own = _centre(getattr(self.main[source.reward, source.family], setting))
                change = value / own if own else 1.0
                gain = change**slope if change else math.inf  # β = 0 is no divergence
                ratio *= min(1.0, gain) if setting == "learning_rate" else gain
        if source.divergence == "none" or not cell.settings.backpropagates:
            return effect * min(1.0, ratio)
        without, own = (
            self.record.effect(source.reward, method, cell.settings, OWN)
            for method in (ROCM_NONE, source.family)
        )
        if ratio < (without / own if own > 0 else 1.0):
            return effect * ratio
        return self.record.effect(source.reward, ROCM_NONE, cell.settings, metric)

    def _normal(self, *names: str) -> Callable[..., Any]:
        """A generator of standard normal numbers that belongs to these names."""
        key = zlib.crc32("/".join(names).encode())
        return np.random.default_rng([self.seed, key]).standard_normal

    @cached_property
    def _validation(self) -> int:
        return prompt_count(self.config.prompts["validation"]) or UNKNOWN_PROMPTS

    def beta(self, source: Source) -> float:
        """β as configured, the middle of what is to be searched, or the first of a controller."""
        return _centre(source.cell.settings.beta if source.cell else 0.0)

    def learning_rate(self, source: Source) -> float:
        """As configured, or the middle of what is to be searched, which may be chosen or not."""
        return _centre(source.cell.settings.learning_rate) if source.cell else math.nan

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Every training is there."""
        return {source.name: {} for source in self.trained}

    def scores(self, method: str, metric: str, reward: str | None = None) -> pd.Series:
        """Something: only table 1, of which no number counts, asks."""
        return pd.Series([0.0, 1.0])

    def change(self, reward: str, method: str, metric: str) -> None:
        """Nothing: only table 1 asks."""

    def seeds(self, reward: str, method: str) -> int | None:
        """All, and so for table 1."""
        return len(self.config.seeds) if self.models[method].cell else None

    def history(self, source: Source, columns: list[str], unfinished: bool = False) -> pd.DataFrame:
        """A training at its snapshots or, where the reward is asked for, at even steps: each the
        mean of its images, which vary as their prompts do. Seconds are in units of their own."""
        assert source.cell is not None and source.reward is not None
        settings = source.cell.settings
        rows = min(settings.iterations, ROWS)
        steps = np.arange(1, rows + 1) * settings.iterations / rows
        if "reward" not in columns:
            steps = np.array(snapshot_steps(settings))
        images = steps * images_per_iteration(settings)
        published = self.config.world == "paper"
        work = training_work(self.config, settings, rounds=published)
        costs = (published and costs_of(self.config, settings.policy)) or STABLE_DIFFUSION
        frame = pd.DataFrame({"step": steps, "reward_queries": images})
        frame["nfe"] = images * work.forward
        frame["training_seconds"] = images * work.teraflop(self.config.resolution, costs)
        if "reward" in columns:
            effect = self.effect(source, source.reward)
            normal = self._normal("history", source.name)
            own = effect + self.record.seeds(effect) * normal()
            prompts = images[0] / min(settings.images_per_prompt, images[0])
            progress = self.record.progress(steps / settings.iterations)
            noise = self.record.prompts(effect) if self.config.base_rewards else 1.0
            frame["reward"] = own * progress + noise * normal(rows) / prompts**0.5
        return frame[columns]

    def gains(self, source: Source) -> pd.DataFrame:
        """Those rewards, which do not follow the prompts drawn where the base's are subtracted."""
        return self.history(source, ["step", "reward", "training_seconds", "reward_queries", "nfe"])

    @cached_property
    def comparisons(self) -> list[tuple[str, str]]:
        """As configured."""
        return list(self.config.study.comparisons) if self.config.study else []

    @cached_property
    def outcomes(self) -> list[dict[str, Any]]:
        """The votes of the user study."""
        votes, study = self.record.record["votes"], self.config.study
        assert study is not None  # or no claim asks
        half = votes["half_width"] * (votes["pairs"] / study.pairs) ** 0.5
        outcomes = []
        for first, second in self.comparisons:
            for question in ("appeal", "preference"):
                error = half / 1.96 * self._normal("votes", first, second, question)()
                rate = 0.5 + votes["share"] + error
                ends = {"win_rate_low": rate - half, "win_rate_high": rate + half}
                row = {"first": first, "second": second, "question": question}
                outcomes.append(row | {"pairs": study.pairs, "win_rate": rate} | ends)
        return outcomes


def _centre(value: Any) -> float:
    """A setting's number; the geometric mean of those to be searched; a controller's first."""
    if isinstance(value, Search):
        return math.exp(fmean(math.log(one) for one in value.search if one))
    return float(getattr(value, "start", value) or 0.0)
