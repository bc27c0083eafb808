"""The claims of the ROCM paper (arXiv 2503.06171)."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from rocm_core.analysis import (
    ROCM_NONE,
    Comparison,
    Source,
    average_deviation,
    compare_differences,
    compare_seeds,
    compare_shares,
    metric_label,
    same_rate,
    unregularised,
)
from rocm_core.claims._costs import both_learn, lead, saving
from rocm_core.claims._evidence import (
    BASELINES,
    Evidence,
    NotConfigured,
    Undecidable,
    aligned,
    averaged,
    compared,
)
from rocm_core.claims._verdict import (
    EFFECT,
    FACTOR,
    LITTLE,
    MORE,
    NOT_LESS,
    SHARE,
    TRUE,
    Part,
    at_least,
    claim,
    contrast,
    every,
    part,
)
from rocm_core.claims._votes import preference
from rocm_core.grid import BEST
from rocm_core.tables import table1

_BASELINE = "ROCM and a baseline: rlcm, ddpo, dpok or d3po"
_BEST = (
    "The best ROCM of each reward, over divergences as configured, is chosen by the scorers it was"
    " not trained on, on one half of the prompts, and judged on the other half, and the other way"
    " round"
)
_ON_DIFFUSION = ("ddpo", "dpok", "d3po")


@claim(
    "1",
    "Regularised ROCM matches or beats RLCM, DDPO, D3PO and DPOK on held-out metrics",
    test=f"Mean of the held-out scorers, in standard deviations. {_BEST}.",
    needs=_BASELINE,
    rule=every,
)
def regularised_against_baselines(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for baseline in _named(e, reward, BASELINES) if e.regularised(reward) else []:
            yield part(
                f"{metric_label(reward)}: ROCM − {baseline.upper()}",
                NOT_LESS,
                *(_best_less, e, reward, baseline),
                unit=EFFECT,
            )


def _named(e: Evidence, reward: str, baselines: Sequence[str]) -> Sequence[str]:
    """The baselines that a claim names, if a reward has one of them: those that it lacks, too."""
    return baselines if set(baselines) & set(e.baselines(reward)) else []


def _require_baseline(e: Evidence, reward: str, baseline: str) -> None:
    if baseline not in e.baselines(reward):
        raise NotConfigured(f"no {metric_label(baseline)} trained on {metric_label(reward)}")


def _require_rocm(e: Evidence, reward: str) -> None:
    if not e.regularised(reward):
        raise NotConfigured(f"no ROCM with a divergence trained on {metric_label(reward)}")


def _best_less(e: Evidence, reward: str, baseline: str) -> Comparison:
    _require_baseline(e, reward, baseline)
    ours = e.best(reward, e.regularised(reward), "held_out")
    return compared(ours, e.final(reward, baseline, "held_out"))


@claim(
    "2",
    "Even without a divergence ROCM matches or beats a baseline somewhere",
    test="Mean of the held-out scorers, final models as configured; one pair is enough.",
    needs=_BASELINE,
    rule=at_least(1),
)
def unregularised_against_baselines(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for baseline in e.baselines(reward) if e.methods(reward, [ROCM_NONE]) else []:
            yield contrast(
                f"{metric_label(reward)}: ROCM, no divergence − {e.label(baseline)}",
                NOT_LESS,
                (e.final, reward, ROCM_NONE, "held_out"),
                (e.final, reward, baseline, "held_out"),
                unit=EFFECT,
            )


@claim(
    "3",
    "Methods on the consistency model score above those on the diffusion model on most metrics",
    test=(
        "ROCM with a divergence and RLCM against the methods on diffusion: share of pairs of"
        " methods and held-out metrics, of each prompt, above ½."
    ),
    needs="ROCM with a divergence or rlcm, and a method on the diffusion policy",
    rule=every,
)
def consistency_against_diffusion(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        if _on_consistency(e, reward) and e.on_policy(reward, "diffusion"):
            yield part(
                f"{metric_label(reward)}: share of wins − ½",
                MORE,
                _share_of_wins,
                e,
                reward,
                unit=SHARE,
            )


def _on_consistency(e: Evidence, reward: str) -> list[str]:
    named = {*e.regularised(reward), "rlcm"}
    return [method for method in e.on_policy(reward, "consistency") if method in named]


def _share_of_wins(e: Evidence, reward: str) -> Comparison:
    wins = []
    for ours, theirs, metric in itertools.product(
        _on_consistency(e, reward),
        e.on_policy(reward, "diffusion"),
        e.held_out_metrics(reward),
    ):
        first, second = aligned(e.final(reward, ours, metric), e.final(reward, theirs, metric))
        wins.append((first - second.to_numpy()).transform(np.sign) / 2 + 0.5)
    if not wins:
        raise NotConfigured(f"no scorer is held out from {metric_label(reward)}")
    return compare_shares(averaged(wins))


@claim(
    "4",
    "ROCM reaches a reward in less training time than RLCM",
    test=(
        "Training seconds until the highest training reward that every seed of both comes to (of"
        " the rising curve nearest to its rewards, the mean over the last fifth), and mean reward"
        " while both train; over seeds. The mean reward alone where one has not learned for"
        " certain. ROCM is the regularised method best on held-out scorers."
    ),
    needs="ROCM and rlcm",
    rule=every,
)
def faster_than_rlcm(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        if "rlcm" in e.baselines(reward) and e.regularised(reward):
            yield from _faster(e, reward, "ROCM", "rlcm")


@claim(
    "5",
    "ROCM and RLCM train more efficiently than DDPO, DPOK and D3PO",
    test="As for claim 4, each of the two against each of the three.",
    needs="rlcm or ROCM, and ddpo, dpok or d3po",
    rule=every,
)
def faster_than_diffusion(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        if e.regularised(reward) or "rlcm" in e.baselines(reward):
            slow = _named(e, reward, _ON_DIFFUSION)
            for method, other in itertools.product(("ROCM", "rlcm"), slow):
                yield from _faster(e, reward, method, other)


def _faster(e: Evidence, reward: str, method: str, other: str) -> Iterator[Part]:
    ours, theirs = method.upper(), other.upper()
    name, pair = metric_label(reward), (e, reward, method, other)
    if _compares_times(*pair):
        yield part(f"{name}: time of {theirs} / {ours}", MORE, _paid, saving, *pair, unit=FACTOR)
    yield part(f"{name}: {ours} − {theirs}, mean reward in equal time", MORE, _paid, lead, *pair)


def _compares_times(e: Evidence, reward: str, *pair: str) -> bool:
    try:
        return both_learn(e, reward, *(_trained(e, reward, method) for method in pair))
    except Undecidable:
        return True


def _paid(measure, e: Evidence, reward: str, *pair: str) -> Comparison:
    methods = [_trained(e, reward, method) for method in pair]
    return measure(e, reward, *methods, "training_seconds")


def _trained(e: Evidence, reward: str, method: str) -> str:
    """A baseline, or for ROCM the divergence, as configured, that held-out scorers like best."""
    if method != "ROCM":
        _require_baseline(e, reward, method)
        return method
    _require_rocm(e, reward)
    means = {m: e.final(reward, m, "held_out").to_numpy().mean() for m in e.regularised(reward)}
    return max(means, key=lambda method: means[method])


@claim(
    "6",
    "Baselines on the diffusion model lose against their own base on several metrics",
    test="Base less trained model on every held-out scorer; two losses are enough.",
    needs="a baseline on the diffusion policy: ddpo, dpok or d3po; and a held-out scorer",
    rule=at_least(2),
)
def diffusion_baselines_lose(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        on_diffusion = e.on_policy(reward, "diffusion")
        losers = [method for method in e.baselines(reward) if method in on_diffusion]
        for method, metric in itertools.product(losers, e.held_out_metrics(reward)):
            label = f"{metric_label(reward)}: base − {e.label(method)}, {metric_label(metric)}"
            yield part(label, MORE, _loss, e, reward, method, metric)


def _loss(e: Evidence, reward: str, method: str, metric: str) -> Comparison:
    return compared(-e.final(reward, method, metric), -e.base(reward, method, metric))


@claim(
    "7",
    "As β falls the reward rises without end, while people's preference peaks and then falls",
    test=(
        "ROCM with KL: the reward at the smallest β (0, or no divergence, where that is trained at"
        " the same learning rate) above that at the best and at the largest β, and the judge at the"
        " best β above both ends. The best of the β between the two ends is chosen by the judge, on"
        " the other half of the prompts. Judge: the gold judge, without one the held-out scorers."
    ),
    needs="rocm-kl with three values of beta or more",
    rule=every,
)
def beta(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        methods = _by_beta(e, reward)
        if len(methods) < 3:
            continue
        name = metric_label(reward)
        for metric, one, other, label in (
            (reward, "least", "most", "reward, smallest − largest β"),
            (reward, "least", "peak", "reward, smallest − best β"),
            (e.judge, "peak", "least", "judge, best − smallest β"),
            (e.judge, "peak", "most", "judge, best − largest β"),
        ):
            yield part(f"{name}: {label}", MORE, _betas, e, reward, methods, metric, one, other)


def _by_beta(e: Evidence, reward: str) -> list[str]:
    """No divergence at KL's learning rate, and KL at every β that was tried, by rising β."""
    methods = {
        method: e.beta(reward, method)
        for method in e.methods(reward, ["rocm-kl"])
        if e.results.models[method].swept.keys() <= {"beta"}
    }
    if not methods:
        return []
    without = unregularised(e.results, reward, "rocm-kl")
    return [*([without] if without else []), *sorted(methods, key=lambda m: methods[m])]


def _betas(
    e: Evidence, reward: str, methods: list[str], metric: str, one: str, other: str
) -> Comparison:
    inner = [(method, None) for method in methods[1:-1]]
    scores = {
        "least": e.final(reward, methods[0], metric),
        "most": e.final(reward, methods[-1], metric),
        "peak": e.chosen(reward, inner, metric, by=e.judge),
    }
    return compared(scores[one], scores[other])


_LARGE, _SMALL = ("hpsv2", "aesthetic"), ("pickscore", "clipscore")


@claim(
    "8",
    "Gains are large for HPSv2 and Aesthetic, small for PickScore and CLIPScore",
    test=f"Gain of the trained reward, in the base's standard deviations. {_BEST}.",
    needs="trainings on one of hpsv2 and aesthetic and on one of pickscore and clipscore",
    rule=every,
)
def gains(e: Evidence) -> Iterator[Part]:
    asked = {*_LARGE} & {*e.rewards} and {*_SMALL} & {*e.rewards}
    for large, small in itertools.product(_LARGE, _SMALL) if asked else []:
        label = f"Gain of {metric_label(large)} − gain of {metric_label(small)}"
        yield part(label, MORE, _gains, e, large, small, unit=EFFECT)


def _gains(e: Evidence, large: str, small: str) -> Comparison:
    for reward in (large, small):
        _require_rocm(e, reward)
    first, second = aligned(*(e.gain(r, e.regularised(r), r) for r in (large, small)))
    return compare_differences(first.to_numpy() - second.to_numpy(), standardised=True)


@claim(
    "9",
    "CLIPScore training brings alignment and little quality, Aesthetic training little alignment",
    test=(
        "Changes on metrics that were not trained on, in standard deviations: alignment is"
        f" BLIPScore and CLIPScore, quality Aesthetic. {_BEST}."
    ),
    needs="trainings on clipscore or aesthetic",
    rule=every,
)
def alignment_and_quality(e: Evidence) -> Iterator[Part]:
    if not {"clipscore", "aesthetic"} & set(e.rewards):
        return
    for reward, metric, expects in (
        ("clipscore", "blipscore", MORE),
        ("clipscore", "aesthetic", LITTLE),
        ("aesthetic", "blipscore", LITTLE),
        ("aesthetic", "clipscore", LITTLE),
    ):
        label = f"Trained on {metric_label(reward)}: change of {metric_label(metric)}"
        yield part(label, expects, _gain, e, reward, metric, unit=EFFECT)


def _gain(e: Evidence, reward: str, metric: str) -> Comparison:
    _require_rocm(e, reward)
    if metric not in e.config.metrics:
        raise NotConfigured(f"{metric_label(metric)} is not among the metrics")
    ours = e.best(reward, e.regularised(reward), metric)
    return compared(ours, e.base(reward, e.regularised(reward)[0], metric))


@claim(
    "10",
    "Without a divergence Aesthetic training makes images noisy; a divergence does not",
    test=(
        "High-frequency energy of the images (read-outs): no divergence, or β = 0, above the base"
        " and above every divergence, all at one learning rate; every divergence above the base by"
        " little. Of the cells trained on further prompts (animals) where a sweep has them. Whether"
        " each divergence has a style of its own is left to the eye."
    ),
    needs="no divergence (rocm-none or β = 0) trained on aesthetic at the rate of the divergences",
    rule=every,
)
def noise(e: Evidence) -> Iterator[Part]:
    control, divergences = _without_and_with(e)
    if not control:
        return
    base = e.results.base_of("aesthetic", control)
    pairs = [(control, other, MORE) for other in [base, *divergences]]
    for ours, theirs, expects in [*pairs, *((one, base, LITTLE) for one in divergences)]:
        yield contrast(
            f"High-frequency energy: {e.label(ours)} − {e.label(theirs)}",
            expects,
            (e.readout, "aesthetic", ours, "high_frequency"),
            (e.readout, "aesthetic", theirs, "high_frequency"),
            unit=EFFECT,
        )


def _without_and_with(e: Evidence) -> tuple[str | None, list[str]]:
    """Trained on aesthetic: no divergence, and every divergence at the same learning rate; on
    further prompts, if a sweep has them. A rate that is yet to be chosen may be the same."""
    families = e.regularised("aesthetic") if "aesthetic" in e.rewards else []
    trained = [e.results.models[m] for m in e.results.methods("aesthetic", sweeps=True)]
    further = [s for s in trained if s.family == ROCM_NONE and s.swept.keys() == {"prompts"}]
    own = {family: family for family in families}
    control = further[0].method if further else None
    if further:
        own = {s.family: s.method for s in trained if s.swept == further[0].swept}
    for family in families:
        control = control or unregularised(e.results, "aesthetic", family)
    alike = [
        own[family]
        for family in families
        if control and family in own and same_rate(e.results, "aesthetic", control, own[family])
    ]
    return (control, alike) if alike else (None, [])


@claim(
    "11",
    "A model is never evaluated on the reward that it was trained on",
    test="Table 1, as the workflow makes it: those entries are withheld.",
    needs="trained cells",
    rule=every,
)
def never_on_its_own_reward(e: Evidence) -> Iterator[Part]:
    data = table1.make(e.results).data
    bases = [base.method for base in e.results.bases]
    used = [
        method not in bases and metric in e.results.used(reward, method)
        for reward, method, metric in zip(
            data["reward"], data["method"], data["metric"], strict=True
        )
    ]
    own = data[used]
    for reward, entries in own.groupby("reward", sort=False):
        label = f"{metric_label(str(reward))}: {len(entries)} entries withheld"
        yield Part(label, TRUE, None, checked=bool(entries["mean"].isna().all()))


@claim(
    "12",
    "People prefer ROCM to RLCM in visual appeal and overall",
    test="Share of votes for ROCM above ½ in the user study. Alignment is shown in figure 3.",
    needs="a study that compares a ROCM cell with an rlcm cell, and its votes",
    rule=every,
)
def people(e: Evidence) -> Iterator[Part]:
    rocm = {source.name for source in e.results.trained if source.is_rocm}
    rlcm = {source.name for source in e.results.trained if source.family == "rlcm"}
    either_way = ((pair, pair[::-1]) for pair in e.results.comparisons)
    for first, second in itertools.chain(*either_way):
        if (first in rocm or f"/{BEST}/" in first) and second in rlcm:
            for question in ("appeal", "preference"):
                by = "simulated raters, " if e.results.simulated else ""
                label = f"{by}{first} against {second}: {question}, share of votes − ½"
                yield part(label, MORE, preference, e, first, second, question, unit=SHARE)


@claim(
    "13",
    "Regularised ROCM never loses to its own base on a held-out metric",
    test="Every divergence as configured, on every held-out scorer.",
    needs="ROCM with a divergence, and a held-out scorer",
    rule=every,
)
def never_below_the_base(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for method, metric in itertools.product(e.regularised(reward), e.held_out_metrics(reward)):
            yield contrast(
                f"{metric_label(reward)}: {e.label(method)} − base, {metric_label(metric)}",
                NOT_LESS,
                (e.final, reward, method, metric),
                (e.base, reward, method, metric),
            )


@claim(
    "14a",
    "First-order training needs less tuning than PPO",
    test=(
        "Trained reward of the best of a search less that of its mean try, which is lost without"
        " tuning: PPO's less ROCM's, as many tries each, in standard deviations over prompts of"
        " the rewards of the two best. The best is chosen on the other half of the prompts. ROCM is"
        " that without a divergence, whose tries are learning rates, too."
    ),
    needs="a search or a sweep of rlcm or ddpo and of rocm-none, three tries each",
    rule=every,
)
def tuning(e: Evidence) -> Iterator[Part]:
    for reward, ppo in itertools.product(e.rewards, ("rlcm", "ddpo")):
        tries = e.tries(reward, ppo, ROCM_NONE)
        if min(map(len, tries)) > 2:
            label = f"{metric_label(reward)}: {e.label(ppo)} − {e.label(ROCM_NONE)}"
            yield part(label, MORE, _tuning, e, reward, tries, unit=EFFECT)


def _tuning(e: Evidence, reward: str, tries: tuple[list[str], list[str]]) -> Comparison:
    budget = min(map(len, tries))
    bests, lost = [], []
    for methods in tries:
        search = [(method, None) for method in methods[:budget]]
        best = e.chosen(reward, search, reward, by=reward).sort_index(axis=1)
        scores = [aligned(e.scores(reward, c, reward), best)[0].to_numpy() for c in search]
        bests.append(best.mean().to_numpy())
        lost.append(best - np.mean(scores, axis=0))
    if not (unit := average_deviation(*bests)) > 0:
        raise Undecidable("all scores are equal")
    first, second = aligned(*lost)
    return compare_differences((first.to_numpy() - second.to_numpy()) / unit, standardised=True)


@claim(
    "14b",
    "First-order training has a lower gradient variance than PPO",
    test=(
        "Share of the mean in the mean square of the gradient of one image, which is lower the more"
        " gradients scatter, of both on the same images at the same weights: where all trainings"
        " start and where PPO's end; over seeds. Where ROCM's end, it has converged, and the mean"
        " is small however little gradients scatter (table gradients)."
    ),
    needs="gradients.methods with a ROCM without truncation and a ppo",
    rule=every,
)
def gradient_variance(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        methods = e.results.compared_gradients(reward)
        compared = [e.results.sources(reward, method)[0] for method in methods]
        whole = [s for s in compared if s.is_rocm and not _is_truncated(s)]
        for ours, ppo in itertools.product(whole, (s for s in compared if s.algorithm == "ppo")):
            for weights in ("", ppo.method):
                where = f"the end of {e.label(weights)}" if weights else "the start"
                yield part(
                    f"{metric_label(reward)}, {where}: {e.label(ours.method)} −"
                    f" {e.label(ppo.method)}",
                    MORE,
                    _signal,
                    *(e, reward, weights, ours.method, ppo.method),
                    unit=SHARE,
                )


def _is_truncated(source: Source) -> bool:
    settings = source.cell and source.cell.settings
    return any(getattr(settings, name, None) for name in ("truncate", "stop_input"))


def _signal(e: Evidence, reward: str, weights: str, ours: str, ppo: str) -> Comparison:
    one, other = (e.signal(reward, weights, gradient) for gradient in (ours, ppo))
    return compare_seeds((one - other).to_numpy())
