"""The claims of the RLCM paper (arXiv 2404.03673)."""

import itertools
from collections.abc import Iterator

from rocm_core.analysis import Comparison, metric_label
from rocm_core.claims._costs import both_learn, lead, saving
from rocm_core.claims._evidence import Evidence, NotConfigured, compared
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
_FOUR = "On the paper's four tasks, where the grid has any of them."
_COSTS = {"training_seconds": "training seconds", "reward_queries": "reward queries"}


_BETTER = ("jpeg_compressibility", "jpeg_incompressibility", "aesthetic")
_NOT_BETTER = ("alignment", "shapes_alignment")
_TASKS = (*_BETTER, *_NOT_BETTER)


def _trained(e: Evidence, *baselines: str) -> list[str]:
    """The rewards of the paper's tasks on which these are trained; of a grid that has none of
    them, all."""
    rewards = [reward for reward in e.rewards if set(baselines) <= set(e.baselines(reward))]
    return [reward for reward in rewards if reward in _TASKS] or rewards


@claim(
    "R1",
    "RLCM trains faster than DDPO, in time and in reward queries",
    test=(
        "Cost until the highest training reward that every seed of both comes to (claim 4), and"
        f" mean reward while both pay as much; over seeds. {_FOUR}"
    ),
    needs=_BOTH,
    rule=every,
)
def faster(e: Evidence) -> Iterator[Part]:
    for reward, (cost, name) in itertools.product(_trained(e, "rlcm", "ddpo"), _COSTS.items()):
        pair, label = (e, reward, "rlcm", "ddpo", cost), metric_label(reward)
        if both_learn(*pair[:-1]):
            yield part(f"{label}: {name} of DDPO / RLCM", MORE, saving, *pair, unit=FACTOR)
        yield part(f"{label}: RLCM − DDPO, mean reward in equal {name}", MORE, lead, *pair)


@claim(
    "R2",
    "Two inference steps of RLCM beat sixteen of DDPO",
    test=f"Training reward on the validation prompts. {_FOUR}",
    needs=f"{_BOTH}, and generation.inference_steps with 2 and 16",
    rule=every,
)
def fewer_steps(e: Evidence) -> Iterator[Part]:
    asked = {2, 16} <= set(inference_steps(e.config))
    for reward in _trained(e, "rlcm", "ddpo") if asked else []:
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
    test=f"Training reward on the further prompt sets, against the base. {_FOUR}",
    needs="rlcm, and a prompt set beside validation",
    rule=every,
)
def generalises(e: Evidence) -> Iterator[Part]:
    for reward in _trained(e, "rlcm"):
        steps = e.results.sample_sets(e.results.sources(reward, "rlcm")[0])[0][1]
        for prompt_set in e.results.evaluation_sets[1:]:
            yield contrast(
                f"{metric_label(reward)}: RLCM − base on {prompt_set}",
                MORE,
                (e.at_steps, reward, "rlcm", prompt_set, steps),
                (e.at_steps, reward, e.results.base_of(reward, "rlcm"), prompt_set, steps),
                unit=EFFECT,
            )


@claim(
    "R4",
    "RLCM beats DDPO on compressibility, incompressibility and aesthetic, not on alignment",
    test="Training reward of the final models on the validation prompts.",
    needs=f"{_BOTH} on one of these rewards",
    rule=every,
)
def rewards(e: Evidence) -> Iterator[Part]:
    trained = [reward for reward in _trained(e, "rlcm", "ddpo") if reward in _TASKS]
    aligned = next((reward for reward in trained if reward in _NOT_BETTER), _NOT_BETTER[0])
    for reward in (*_BETTER, aligned) if trained else []:
        yield part(
            f"{metric_label(reward)}: RLCM − DDPO",
            LITTLE if reward == aligned else MORE,
            *(_final, e, reward),
            unit=EFFECT,
        )


def _final(e: Evidence, reward: str) -> Comparison:
    if not {"rlcm", "ddpo"} <= set(e.baselines(reward) if reward in e.rewards else ()):
        raise NotConfigured(f"no RLCM and DDPO trained on {metric_label(reward)}")
    return compared(e.final(reward, "rlcm", reward), e.final(reward, "ddpo", reward))
