"""What tames reward hacking: every contestant against no divergence, stopped early.

A contestant is a method that is not one of the papers', a setting against hacking that a sweep
gives to one, or an ensemble of rewards, without a divergence. It is judged as its training ends, or
as `stop_by` ends it; the control, `rocm-none` on the same reward or on a member of the ensemble, at
the snapshot that the scorers not trained on choose on the other half of the prompts.
"""

from collections.abc import Callable, Iterable, Iterator

from rocm_core.analysis import GOLD, Comparison, metric_label
from rocm_core.claims._evidence import (
    ROCM_NONE,
    Candidate,
    Evidence,
    NotConfigured,
    Scores,
    Undecidable,
    aligned,
    compared,
)
from rocm_core.claims._verdict import EFFECT, MORE, Part, at_least, claim, every, part
from rocm_core.grid import trials_of

_JUDGE = "Judge: the gold judge, without one the held-out scorers. One contestant is enough."
_ENSEMBLES = (
    "Where there is a gold judge, an ensemble contends with each of its members, both without a"
    " divergence."
)
_NEEDS = (
    "rocm-none and a contestant, with snapshots of both: grpo, rebel or hybrid, or a sweep of what"
    " is against hacking, such as truncate, gate_by or reference_reset"
)
_OR_ENSEMBLE = f"{_NEEDS}, or an ensemble"
Arm = tuple[str, str]  # a reward, and a method that trains on it
Contest = Callable[[Evidence, Arm, Arm], Comparison]


def _contestants(e: Evidence) -> list[tuple[Arm, Arm]]:
    """Contestants on the reward of their control."""
    return [
        ((reward, source.method), (reward, ROCM_NONE))
        for reward in e.rewards
        if e.methods(reward, [ROCM_NONE])
        for source in (e.results.models[m] for m in e.results.methods(reward, sweeps=True))
        if source.is_contestant
    ]


def _ensembles(e: Evidence) -> list[tuple[Arm, Arm]]:
    """Ensembles, and the same training on a member. Only the gold judge is the same for both:
    other scorers are held out from the one than from the other."""
    trained = [reward for reward in e.rewards if e.methods(reward, [ROCM_NONE])]
    return [
        ((ensemble, ROCM_NONE), (member, ROCM_NONE))
        for ensemble in trained
        if ensemble in e.config.ensembles and e.judge == GOLD
        for member in e.config.members(ensemble)
        if member in trained
    ]


def _each(e: Evidence, contest: Contest, arms: Iterable[tuple[Arm, Arm]]) -> Iterator[Part]:
    for ours, control in arms:
        (reward, method), (other, _) = ours, control
        against = "no divergence" if other == reward else f"the same on {metric_label(other)}"
        label = f"{metric_label(reward)}: {e.label(method)} − {against}"
        yield part(label, MORE, contest, e, ours, control, unit=EFFECT)


@claim(
    "Q4a",
    "Something keeps more of the truth than no divergence at the same gain of the reward",
    test=(
        "Both where their trained reward first reaches the smaller of their largest gains, between"
        f" two snapshots in proportion to the gain, on the prompts of snapshots. {_JUDGE} Left out"
        " are stop_by, which changes no training, and ensembles, whose members train on other"
        " rewards."
    ),
    needs=_NEEDS,
    rule=at_least(1),
)
def at_equal_reward(e: Evidence) -> Iterator[Part]:
    models = e.results.models
    arms = [pair for pair in _contestants(e) if "stop_by" not in models[pair[0][1]].swept]
    yield from _each(e, _at_equal_reward, arms)


def _at_equal_reward(e: Evidence, *arms: Arm) -> Comparison:
    rises = [_rises(e, *arm) for arm in arms]
    level = min(max(gain for _, gain in rise) for rise in rises)
    if level <= 0:
        raise Undecidable(f"{' or '.join(map('/'.join, arms))} gained nothing")
    return compared(*(_at_gain(e, arm, rise, level) for arm, rise in zip(arms, rises, strict=True)))


def _rises(e: Evidence, reward: str, method: str) -> list[tuple[int, float]]:
    """(step, gain of the trained reward since the base) of the base and every snapshot."""
    steps = [0, *e.steps(reward, method)]
    means = [e.scores(reward, (method, step), reward).to_numpy().mean() for step in steps]
    return [(step, float(mean - means[0])) for step, mean in zip(steps, means, strict=True)]


def _at_gain(e: Evidence, arm: Arm, rise: list[tuple[int, float]], level: float) -> Scores:
    """The judge's scores where a training first reaches a gain above 0, linear in the gain between
    two snapshots. The later one alone has gained more than the other arm, and may have hacked more.
    """
    reward, method = arm
    after = next(n for n, (_, gain) in enumerate(rise) if gain >= level)
    (early, below), (late, above) = rise[after - 1], rise[after]
    before, beyond = aligned(*(e.scores(reward, (method, step), e.judge) for step in (early, late)))
    return before + (level - below) / (above - below) * (beyond - before)


@claim(
    "Q4b",
    "Something keeps more of the truth than no divergence at the same NFE",
    test=(
        "The contestant's last snapshot within the NFE that the cheaper training ends with, those"
        " of searches not counted; the control stops where the scorers not trained on say, within"
        f" them too. {_JUDGE} {_ENSEMBLES}"
    ),
    needs=_OR_ENSEMBLE,
    rule=at_least(1),
)
def at_equal_nfe(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _at_equal_nfe, [*_contestants(e), *_ensembles(e)])


def _at_equal_nfe(e: Evidence, ours: Arm, control: Arm) -> Comparison:
    limit = min(e.nfe(*arm)[-1][1] for arm in (ours, control))
    candidates, stops = (_within(e, *arm, limit) for arm in (ours, control))
    ends = candidates[-1][1] == e.steps(*ours)[-1]
    last = (ours[1], None) if ends else candidates[-1]
    return compared(e.scores(ours[0], last, e.judge), e.chosen(control[0], stops, e.judge))


def _within(e: Evidence, reward: str, method: str, limit: float) -> list[Candidate]:
    """The snapshots of a method within some NFE."""
    found = [(method, step) for step, nfe in e.nfe(reward, method) if nfe <= limit]
    if not found:
        raise Undecidable(f"no snapshot of {reward}/{method} within {limit:,.0f} NFE")
    return list(found)


@claim(
    "Q4c",
    "Something keeps more of the truth than no divergence after the same search",
    test=(
        "Whole trainings with what a search of as many tries chose, of whatever NFE; a setting has"
        " no search of its own, but trains with what its method's chose. The control stops where"
        f" the scorers not trained on say. {_JUDGE} {_ENSEMBLES}"
    ),
    needs=f"{_OR_ENSEMBLE}; and searches of both",
    rule=at_least(1),
)
def after_equal_search(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _after_equal_search, [*_contestants(e), *_ensembles(e)])


def _after_equal_search(e: Evidence, ours: Arm, control: Arm) -> Comparison:
    searched = [(reward, e.results.models[method].family) for reward, method in (ours, control)]
    tried = {len(trials_of(e.results.cells, *arm)) for arm in searched}
    if len(tried) > 1 or 0 in tried:
        one, other = map("/".join, searched)
        raise NotConfigured(f"no search of {one} and as long a one of {other}")
    stops: list[Candidate] = [(control[1], step) for step in e.steps(*control)]
    return compared(e.final(*ours, e.judge), e.chosen(control[0], stops, e.judge))


@claim(
    "Q5",
    "REBEL learns more than PPO at equal NFE",
    test="The trained reward at the NFE that the cheaper training ends with, or the last before.",
    needs="rebel-consistency and rlcm, with snapshots of both",
    rule=every,
)
def rebel_against_ppo(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        if {"rebel-consistency", "rlcm"} <= {*e.results.methods(reward)}:
            label = f"{metric_label(reward)}: REBEL − RLCM"
            yield part(label, MORE, _rebel_against_ppo, e, reward, unit=EFFECT)


def _rebel_against_ppo(e: Evidence, reward: str) -> Comparison:
    both = "rebel-consistency", "rlcm"
    limit = min(e.nfe(reward, name)[-1][1] for name in both)
    return compared(
        *(e.scores(reward, _within(e, reward, name, limit)[-1], reward) for name in both)
    )
