"""What this reproduction asks beyond the papers, with the control that they lack: no divergence, at
lower learning rates, stopped early, at the same search budget.

The budget is the number of trainings: of two arms the first so many in the configuration take part,
as many as the smaller arm has. Stopping is free, since every training leaves snapshots. What to
stop at, and which training, is chosen by the scorers not trained on (never by the judge), on one
half of the prompts of snapshots; it is scored on the other half, and the other way round.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rocm_core.analysis import ROCM_NONE, Comparison, metric_label
from rocm_core.claims._evidence import (
    Candidate,
    Evidence,
    Scores,
    compared,
    pooled,
)
from rocm_core.claims._verdict import (
    DIFFERENT,
    EFFECT,
    MORE,
    Part,
    at_least,
    claim,
    first,
    part,
)

_CONTROL = (
    "Judge: the gold judge, without one the held-out scorers. The control is no divergence, with"
    " its swept or searched settings, stopped where the scorers not trained on are best; as many"
    " trainings in either arm, several at least. What is chosen on one half of the prompts is"
    " judged on the other"
)
Arms = Callable[[Evidence, str, str], tuple[Scores, Scores]]


def _pooled_first(
    e: Evidence, pairs: Sequence[tuple[str, str]], arms: Arms, difference: str, note: str = ""
) -> Iterator[Part]:
    """The mean effect over all (reward, method), which decides, and each of them; `difference` is
    the two arms as they are to be read, with {} for the method. note: on what decides."""
    if len(pairs) > 1:
        yield part(f"Mean of all{note}", MORE, _mean_effect, e, pairs, arms, unit=EFFECT)
    for reward, method in pairs:
        label = f"{metric_label(reward)}: {difference.format(e.label(method))}"
        label += note if len(pairs) == 1 else ""
        yield part(label, MORE, _effect, e, reward, method, arms, unit=EFFECT)


def _mean_effect(e: Evidence, pairs: Sequence[tuple[str, str]], arms: Arms) -> Comparison:
    return pooled([e.effects(*arms(e, reward, method)) for reward, method in pairs])


def _effect(e: Evidence, reward: str, method: str, arms: Arms) -> Comparison:
    return compared(*arms(e, reward, method))


def _divergences(e: Evidence) -> list[tuple[str, str]]:
    return [
        (reward, method)
        for reward in e.rewards
        for method in e.regularised(reward)
        if e.methods(reward, [ROCM_NONE]) and e.tuned_alike(reward, method, ROCM_NONE)
    ]


def _snapshots(e: Evidence, reward: str, methods: Sequence[str]) -> list[Candidate]:
    return [(method, step) for method in methods for step in e.steps(reward, method)]


def _last(e: Evidence, reward: str, methods: Sequence[str]) -> list[Candidate]:
    return [(method, e.steps(reward, method)[-1]) for method in methods]


def _arms(e: Evidence, reward: str, method: str, stops: bool) -> tuple[Scores, Scores]:
    ours, control = (e.methods(reward, [name]) for name in (method, ROCM_NONE))
    budget = min(len(ours), len(control))
    candidates = (_snapshots if stops else _last)(e, reward, ours[:budget])
    return (
        e.chosen(reward, candidates, e.judge),
        e.chosen(reward, _snapshots(e, reward, control[:budget]), e.judge),
    )


def _against_control(e: Evidence, stops: bool) -> Iterator[Part]:
    pairs = _divergences(e)
    arms = partial(_arms, stops=stops)
    yield from _pooled_first(e, pairs, arms, "{} − control", _earliest_stop(e, pairs))


def _earliest_stop(e: Evidence, pairs: Sequence[tuple[str, str]]) -> str:
    """A control may have been at its best before its first snapshot: a reader has to know it."""
    evaluated = {reward for reward, _ in pairs if e.results.has_snapshots(reward, ROCM_NONE)}
    first = {e.steps(reward, ROCM_NONE)[0] for reward in evaluated}
    return f"; the control may stop from step {min(first)} on" if first else ""


_NEEDS = (
    "a tuned control: several settings of rocm-none and of ROCM with a divergence, swept or"
    " searched, and snapshots of both"
)


@claim(
    "Q1a",
    "A divergence, trained to the end, beats stopping early without one",
    test=f"{_CONTROL}. The divergence is judged at the end of its training.",
    needs=_NEEDS,
    rule=first,
)
def divergence_against_stopping(e: Evidence) -> Iterator[Part]:
    yield from _against_control(e, stops=False)


@claim(
    "Q1b",
    "A divergence beats no divergence where both may stop early",
    test=f"{_CONTROL}. The divergence stops by the same rule.",
    needs=_NEEDS,
    rule=first,
)
def divergence_and_stopping(e: Evidence) -> Iterator[Part]:
    yield from _against_control(e, stops=True)


@claim(
    "Q2",
    "Some divergence beats another",
    test=(
        "Final models on the validation prompts, by the judge; the best of each divergence's swept"
        " settings is chosen on the other half of the prompts. One pair is enough."
    ),
    needs="two divergences, each with several settings, swept or searched",
    rule=at_least(1),
)
def divergence_against_another(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for one, other in itertools.combinations(e.regularised(reward), 2):
            if not e.tuned_alike(reward, one, other):
                continue
            label = f"{metric_label(reward)}: {e.label(one)} − {e.label(other)}"
            yield part(label, DIFFERENT, _best_of_each, e, reward, one, other, unit=EFFECT)


def _best_of_each(e: Evidence, reward: str, one: str, other: str) -> Comparison:
    budget = min(len(e.methods(reward, [method])) for method in (one, other))
    return compared(
        *(e.chosen(reward, e.finals(reward, [m])[:budget], e.judge) for m in (one, other))
    )


_EQUAL_NFE = (
    "Snapshots of ROCM and RLCM at the NFE that the cheaper training ends with, or the"
    " last before; as many trainings in either arm, the best chosen by the scorers not trained on,"
    " on the other half of the prompts of snapshots"
)


@claim(
    "Q3a",
    "ROCM beats RLCM at equal NFE: on the reward that both train on",
    test=f"{_EQUAL_NFE}.",
    needs="ROCM and rlcm",
    rule=first,
)
def equal_nfe_by_reward(e: Evidence) -> Iterator[Part]:
    yield from _pooled_first(e, _with_rlcm(e), partial(_at_equal_nfe, metric=None), "ROCM − {}")


@claim(
    "Q3b",
    "ROCM beats RLCM at equal NFE: by the judge",
    test=f"{_EQUAL_NFE}. Judge: the gold judge, without one the held-out scorers.",
    needs="ROCM and rlcm",
    rule=first,
)
def equal_nfe_by_judge(e: Evidence) -> Iterator[Part]:
    yield from _pooled_first(e, _with_rlcm(e), partial(_at_equal_nfe, metric=e.judge), "ROCM − {}")


def _with_rlcm(e: Evidence) -> list[tuple[str, str]]:
    return [
        (reward, "rlcm")
        for reward in e.rewards
        if "rlcm" in e.baselines(reward) and e.regularised(reward)
    ]


def _at_equal_nfe(e: Evidence, reward: str, rlcm: str, metric: str | None) -> tuple[Scores, Scores]:
    """Scores of both arms by a metric, or by the training reward."""
    arms = e.methods(reward, e.regularised(reward)), e.methods(reward, [rlcm])
    budget = min(map(len, arms))
    limit = min(e.nfe(reward, m)[-1][1] for arm in arms for m in arm[:budget])
    ours, theirs = ([e.within(reward, m, limit)[-1] for m in arm[:budget]] for arm in arms)
    return e.chosen(reward, ours, metric or reward), e.chosen(reward, theirs, metric or reward)
