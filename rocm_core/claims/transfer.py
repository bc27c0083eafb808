"""Whether what training does to one few-step generator it does to others, of another architecture
and with another chain, as RLCM's paper (arXiv 2404.03673) asks of its own method."""

from collections.abc import Iterator

from rocm_core.analysis import metric_label
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import EFFECT, MORE, Part, claim, contrast, every

_NEEDS = "two policies beside diffusion, each trained by the same methods"


def _generators(e: Evidence, reward: str) -> list[str]:
    """The few-step generators trained on a reward, where several are, each by the same methods."""
    models, trained = e.results.models, {}
    for policy in e.results.generators:
        if methods := e.on_policy(reward, policy):
            trained[policy] = {(models[m].algorithm, models[m].divergence) for m in methods}
    same = len(set(map(frozenset, trained.values()))) == 1
    return list(trained) if same and len(trained) > 1 else []


@claim(
    "Q6a",
    "Training raises its reward on every few-step generator",
    test="Training reward of the final models on the validation prompts, against the base.",
    needs=_NEEDS,
    rule=every,
)
def raises_reward(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for policy in _generators(e, reward):
            for method in e.on_policy(reward, policy):
                yield contrast(
                    f"{metric_label(reward)}, {policy}: {e.label(method, where=False)} − base",
                    MORE,
                    (e.final, reward, method, reward),
                    (e.base, reward, method, reward),
                    unit=EFFECT,
                )


@claim(
    "Q6b",
    "A divergence keeps more of the truth than none on every few-step generator",
    test=(
        "Final models of backpropagation with and without a divergence on the validation prompts."
        " Judge: the gold judge, without one the held-out scorers."
    ),
    needs=f"{_NEEDS}, with a divergence and without",
    rule=every,
)
def keeps_truth(e: Evidence) -> Iterator[Part]:
    for reward in e.rewards:
        for policy in _generators(e, reward):
            direct = [
                method
                for method in e.on_policy(reward, policy)
                if e.results.models[method].algorithm == "direct"
            ]
            without = [m for m in direct if e.results.models[m].divergence == "none"]
            for method in direct if without else ():
                if method not in without:
                    yield contrast(
                        f"{metric_label(reward)}, {policy}: {e.label(method, where=False)}"
                        " − no divergence",
                        MORE,
                        (e.final, reward, method, e.judge),
                        (e.final, reward, without[0], e.judge),
                        unit=EFFECT,
                    )
