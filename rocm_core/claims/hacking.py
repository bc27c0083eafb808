"""What tames reward hacking: every contestant against no divergence, stopped early.

A contestant is a method that is not one of the papers', or a setting against hacking that a sweep
gives to one. It is judged as its training ends, or as `stop_by` ends it; the control, `rocm-none`,
at the snapshot that the scorers not trained on choose on the other half of the prompts.
"""

from collections.abc import Callable, Iterator

from rocm_core.analysis import Comparison, metric_label
from rocm_core.claims._evidence import (
    ROCM_NONE,
    Candidate,
    Evidence,
    NotConfigured,
    Undecidable,
    compared,
)
from rocm_core.claims._verdict import EFFECT, MORE, Part, at_least, claim, every, part
from rocm_core.grid import trials_of

_JUDGE = "Judge: the gold judge, without one the held-out scorers"
_NEEDS = (
    "rocm-none and a contestant, with snapshots of both: grpo, rebel or hybrid, or a sweep of what"
    " is against hacking, such as truncate, gate_by or reference_reset"
)
Contest = Callable[[Evidence, str, str], Comparison]


def _contestants(e: Evidence) -> list[tuple[str, str]]:
    return [
        (reward, source.method)
        for reward in e.rewards
        if e.methods(reward, [ROCM_NONE])
        for source in (e.results.models[m] for m in e.results.methods(reward, sweeps=True))
        if source.is_contestant
    ]


def _each(e: Evidence, contest: Contest) -> Iterator[Part]:
    for reward, method in _contestants(e):
        label = f"{metric_label(reward)}: {e.label(method)} − no divergence"
        yield part(label, MORE, contest, e, reward, method, unit=EFFECT)


@claim(
    "Q4a",
    "Something keeps more of the truth than no divergence at the same gain of the reward",
    test=(
        "Both where their trained reward first reaches the smaller of their largest gains, on the"
        f" prompts of snapshots. {_JUDGE}. One contestant is enough."
    ),
    needs=_NEEDS,
    rule=at_least(1),
)
def at_equal_reward(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _at_equal_reward)


def _at_equal_reward(e: Evidence, reward: str, method: str) -> Comparison:
    arms = [_rises(e, reward, name) for name in (method, ROCM_NONE)]
    level = min(max(gain for _, gain in arm) for arm in arms)
    if level <= 0:
        raise Undecidable(f"{reward}/{method} or {reward}/{ROCM_NONE} gained nothing")
    steps = [next(step for step, gain in arm if gain >= level) for arm in arms]
    return compared(
        *(
            e.scores(reward, (name, step), e.judge)
            for name, step in zip((method, ROCM_NONE), steps, strict=True)
        )
    )


def _rises(e: Evidence, reward: str, method: str) -> list[tuple[int, float]]:
    """(step, gain of the trained reward since the base) of every snapshot."""
    start = e.scores(reward, (method, 0), reward).to_numpy().mean()
    return [
        (step, float(e.scores(reward, (method, step), reward).to_numpy().mean() - start))
        for step in e.steps(reward, method)
    ]


@claim(
    "Q4b",
    "Something keeps more of the truth than no divergence at the same NFE",
    test=(
        "The contestant's last snapshot within the NFE that the cheaper training ends with; the"
        f" control stops where the scorers not trained on say, within them too. {_JUDGE}. One"
        " contestant is enough."
    ),
    needs=_NEEDS,
    rule=at_least(1),
)
def at_equal_nfe(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _at_equal_nfe)


def _at_equal_nfe(e: Evidence, reward: str, method: str) -> Comparison:
    limit = min(e.nfe(reward, name)[-1][1] for name in (method, ROCM_NONE))
    ours, control = (_within(e, reward, name, limit) for name in (method, ROCM_NONE))
    ends = ours[-1][1] == e.steps(reward, method)[-1]
    last = (method, None) if ends else ours[-1]
    return compared(e.scores(reward, last, e.judge), e.chosen(reward, control, e.judge))


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
        "Whole trainings with what a search of as many trials chose; the control stops where the"
        f" scorers not trained on say. {_JUDGE}. One contestant is enough."
    ),
    needs=f"{_NEEDS}; and searches of both",
    rule=at_least(1),
)
def after_equal_search(e: Evidence) -> Iterator[Part]:
    yield from _each(e, _after_equal_search)


def _after_equal_search(e: Evidence, reward: str, method: str) -> Comparison:
    families = e.results.models[method].family, ROCM_NONE
    tried = {len(trials_of(e.results.cells, reward, family)) for family in families}
    if len(tried) > 1 or 0 in tried:
        raise NotConfigured(f"no search of {reward}/{families[0]} and as long a one of rocm-none")
    control: list[Candidate] = [(ROCM_NONE, step) for step in e.steps(reward, ROCM_NONE)]
    return compared(e.final(reward, method, e.judge), e.chosen(reward, control, e.judge))


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
