"""The claims of the RLCM paper (arXiv 2404.03673)."""

from collections.abc import Iterator

from rocm_core.analysis import metric_label
from rocm_core.claims._costs import saving
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import (
    EFFECT,
    FACTOR,
    LITTLE,
    MORE,
    Part,
    claim,
    contrast,
    every,
    part,
)
from rocm_core.grid import inference_steps

_BOTH = "rlcm and ddpo"


def _rewards(e: Evidence) -> list[str]:
    return [r for r in e.rewards if {"rlcm", "ddpo"} <= set(e.baselines(r))]


@claim(
    "R1",
    "RLCM trains faster than DDPO, in time and in reward queries",
    test="Cost until the highest training reward that every seed of both reaches, over seeds.",
    needs=_BOTH,
    rule=every,
)
def faster(e: Evidence) -> Iterator[Part]:
    for reward in _rewards(e):
        for cost, name in (
            ("training_seconds", "training seconds"),
            ("reward_queries", "reward queries"),
        ):
            yield part(
                f"{metric_label(reward)}: {name} of DDPO / RLCM",
                MORE,
                saving,
                *(e, reward, "rlcm", "ddpo", cost),
                unit=FACTOR,
            )


@claim(
    "R2",
    "Two inference steps of RLCM beat sixteen of DDPO",
    test="Training reward on the validation prompts.",
    needs=f"{_BOTH}, and generation.inference_steps with 2 and 16",
    rule=every,
)
def fewer_steps(e: Evidence) -> Iterator[Part]:
    for reward in _rewards(e) if {2, 16} <= set(inference_steps(e.config)) else []:
        yield contrast(
            f"{metric_label(reward)}: RLCM, 2 steps − DDPO, 16 steps",
            MORE,
            (e.at_steps, reward, "rlcm", "validation", 2),
            (e.at_steps, reward, "ddpo", "validation", 16),
            unit=EFFECT,
        )


@claim(
    "R3",
    "RLCM generalises to prompts that it was not trained on",
    test="Training reward on the further prompt sets, against the base.",
    needs="rlcm, and a prompt set beside validation",
    rule=every,
)
def generalises(e: Evidence) -> Iterator[Part]:
    for reward in (reward for reward in e.rewards if "rlcm" in e.baselines(reward)):
        steps = e.results.sample_sets(e.results.sources(reward, "rlcm")[0])[0][1]
        for prompt_set in e.results.evaluation_sets[1:]:
            yield contrast(
                f"{metric_label(reward)}: RLCM − base on {prompt_set}",
                MORE,
                (e.at_steps, reward, "rlcm", prompt_set, steps),
                (e.at_steps, reward, e.results.base_of(reward, "rlcm"), prompt_set, steps),
                unit=EFFECT,
            )


_BETTER = ("jpeg_compressibility", "jpeg_incompressibility", "aesthetic")
_NOT_BETTER = ("alignment", "shapes_alignment")


@claim(
    "R4",
    "RLCM beats DDPO on compressibility, incompressibility and aesthetic, not on alignment",
    test="Training reward of the final models on the validation prompts.",
    needs=f"{_BOTH} on one of these rewards",
    rule=every,
)
def rewards(e: Evidence) -> Iterator[Part]:
    for names, expects in ((_BETTER, MORE), (_NOT_BETTER, LITTLE)):
        for reward in (r for r in _rewards(e) if r in names):
            yield contrast(
                f"{metric_label(reward)}: RLCM − DDPO",
                expects,
                (e.final, reward, "rlcm", reward),
                (e.final, reward, "ddpo", reward),
                unit=EFFECT,
            )
