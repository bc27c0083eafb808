"""What tames reward hacking: every contestant against no divergence, stopped early.

A contestant is a method that is not one of the papers', a setting against hacking that a sweep
gives to one, or an ensemble of rewards, without a divergence. The control is `rocm-none` on the
same rewards or on each member of the ensemble. Who stops does so at the snapshot that the scorers
not trained on choose on the other half of the prompts. A part is a contestant: its mean over its
controls.
"""

from collections.abc import Callable, Iterator

from rocm_core.analysis import GOLD, ROCM_NONE, Comparison, metric_label
from rocm_core.claims._evidence import (
    Candidate,
    Evidence,
    NotConfigured,
    Scores,
    Undecidable,
    aligned,
    compared,
    pooled,
)
from rocm_core.claims._verdict import EFFECT, MORE, Part, at_least, claim, every, part
from rocm_core.grid import trials_of

_JUDGE = (
    "Judge: the gold judge, without one the held-out scorers. The mean over all rewards; one"
    " contestant is enough."
)
_ENSEMBLES = (
    "Where there is a gold judge, an ensemble contends with its members, both without a divergence."
)
_NEEDS = (
    "rocm-none and a contestant, with snapshots of both: grpo, rebel or hybrid, or a sweep of what"
    " is against hacking, such as truncate, gate_by or reference_reset"
)
_OR_ENSEMBLE = f"{_NEEDS}, or an ensemble"
Arm = tuple[str, str]  # a reward, and a method that trains on it
Arms = list[tuple[Arm, Arm]]  # a contestant beside each of its controls
Contests = dict[str, Arms]  # by what a part is called
Contest = Callable[[Evidence, Arm, Arm], tuple[Scores, Scores]]


def _contestants(e: Evidence, *, stop_by: bool) -> Contests:
    """Contestants on each reward that they and the control train on; `stop_by` may be one."""
    found: Contests = {}
    for reward in e.rewards:
        for method in e.results.methods(reward, sweeps=True) if _has_control(e, reward) else []:
            may = stop_by or not _stops_itself(e, method)
            if may and e.results.models[method].is_contestant:
                arms = found.setdefault(f"{e.label(method)} − no divergence", [])
                arms.append(((reward, method), (reward, ROCM_NONE)))
    return found


def _ensembles(e: Evidence) -> Contests:
    """Ensembles beside the same training on each member. Only the gold judge is the same for both:
    other scorers are held out from the one than from the other."""
    trained = [reward for reward in e.rewards if _has_control(e, reward)]
    arms = {
        f"{metric_label(ensemble)} − its members, no divergence": [
            ((ensemble, ROCM_NONE), (member, ROCM_NONE))
            for member in e.config.members(ensemble)
            if member in trained
        ]
        for ensemble in trained
        if ensemble in e.config.ensembles and e.judge == GOLD
    }
    return {label: beside for label, beside in arms.items() if beside}


def _all(e: Evidence) -> Contests:
    return _contestants(e, stop_by=True) | _ensembles(e)


def _each(e: Evidence, contest: Contest, contests: Contests) -> Iterator[Part]:
    for label, arms in contests.items():
        yield part(label, MORE, _mean_effect, e, contest, arms, unit=EFFECT)


def _mean_effect(e: Evidence, contest: Contest, arms: Arms) -> Comparison:
    return pooled([e.effects(*contest(e, *beside)) for beside in arms])


def _has_control(e: Evidence, reward: str) -> bool:
    return bool(e.methods(reward, [ROCM_NONE]))


def _stops_itself(e: Evidence, method: str) -> bool:
    return "stop_by" in e.results.models[method].swept


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
    yield from _each(e, _at_equal_reward, _contestants(e, stop_by=False))


def _at_equal_reward(e: Evidence, *arms: Arm) -> tuple[Scores, Scores]:
    rises = [_rises(e, *arm) for arm in arms]
    level = min(max(gain for _, gain in rise) for rise in rises)
    if level <= 0:
        raise Undecidable(f"{' or '.join(e.named(*arm) for arm in arms)} gained nothing")
    ours, control = (_at_gain(e, arm, rise, level) for arm, rise in zip(arms, rises, strict=True))
    return ours, control


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
    "Something keeps more of the truth than no divergence at the same NFE, where both may stop",
    test=(
        "Within the NFE that the cheaper training ends with, those of searches not counted, both"
        " stop where the scorers not trained on say; stop_by has stopped itself."
        f" {_JUDGE} {_ENSEMBLES}"
    ),
    needs=_OR_ENSEMBLE,
    rule=at_least(1),
)
def at_equal_nfe(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _at_equal_nfe, _all(e))


def _at_equal_nfe(e: Evidence, ours: Arm, control: Arm) -> tuple[Scores, Scores]:
    limit = min(e.nfe(*arm)[-1][1] for arm in (ours, control))
    if _stops_itself(e, ours[1]):
        if e.nfe(*ours)[-1][1] > limit:
            raise NotConfigured(f"{e.named(*ours)} may have stopped beyond {limit:,.0f} NFE")
        stopped = e.final(*ours, e.judge)
    else:
        stopped = e.chosen(ours[0], e.within(*ours, limit), e.judge)
    return stopped, e.chosen(control[0], e.within(*control, limit), e.judge)


@claim(
    "Q4c",
    "Something, trained to its end, keeps more of the truth than no divergence stopped early, after"
    " the same search",
    test=(
        "Whole trainings with what a search of as many tries chose, of whatever NFE; a setting has"
        " no search of its own, but trains with what its method's chose, and stop_by ends where its"
        " scorers say. The control stops where the scorers not trained on say."
        f" {_JUDGE} {_ENSEMBLES}"
    ),
    needs=f"{_OR_ENSEMBLE}; and searches of both",
    rule=at_least(1),
)
def after_equal_search(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _after_equal_search, _all(e))


def _after_equal_search(e: Evidence, ours: Arm, control: Arm) -> tuple[Scores, Scores]:
    searched = [(reward, e.results.models[method].family) for reward, method in (ours, control)]
    tried = {len(trials_of(e.results.cells, *arm)) for arm in searched}
    if len(tried) > 1 or 0 in tried:
        one, other = (e.named(*arm) for arm in searched)
        raise NotConfigured(f"no search of {one} and as long a one of {other}")
    stops: list[Candidate] = [(control[1], step) for step in e.steps(*control)]
    return e.final(*ours, e.judge), e.chosen(control[0], stops, e.judge)


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
    return compared(*(e.scores(reward, e.within(reward, name, limit)[-1], reward) for name in both))
