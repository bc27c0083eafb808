"""The best of several models, as a study compares it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocm_core.analysis import Trained, halves, rank
from rocm_core.configuration import Contest
from rocm_core.errors import UserError
from rocm_core.prompts import Prompt, normalise


def best(contest: Contest, validation: Sequence[Prompt], shown: Sequence[Prompt]) -> dict[str, Any]:
    """Which cell of a contest is the best, as `model`, and what that was decided on: each cell's
    `merits`, the `metrics`, the number of `prompts`; `ties`, the cells that are as good; `missing`.

    Held-out scorers choose on the first half of the validation prompts, as for a search, without
    those that raters are shown; these are whole trainings, so what they learned has no say. Of
    equals the first by its name is taken. Raises `UserError` where there is nothing to choose from
    or by.
    """
    if not contest.scores:
        raise UserError(
            f"none of {', '.join(contest.missing)} has images and scores, of which the study shows"
            " the best: finish one of them first"
        )
    texts = {normalise(prompt.text) for prompt in shown}
    kept, _ = halves([prompt.id for prompt in validation])
    of_id = {prompt.id: prompt for prompt in validation}
    prompts = [name for name in kept if normalise(of_id[name].text) not in texts]
    scores = [Path(path) for path in contest.scores.values()]
    trained = Trained(contest.reward, contest.used)
    ranking = rank(trained, scores, Path(contest.base), prompts)
    of_cell = dict(zip(contest.scores, ranking.merits, strict=True))
    model = max(sorted(of_cell), key=lambda name: of_cell[name])
    return {
        "model": model,
        "merits": of_cell,
        "metrics": ranking.metrics,
        "prompts": len(prompts),
        "ties": [name for name in of_cell if name != model and of_cell[name] == of_cell[model]],
        "missing": list(contest.missing),
    }


def describe(name: str, choice: Mapping[str, Any]) -> str:
    """A choice as a sentence."""
    merits = ", ".join(f"{cell} {merit:.4g}" for cell, merit in choice["merits"].items())
    text = (
        f"{name} is {choice['model']}: mean change of {', '.join(choice['metrics'])} against the"
        f" base on {choice['prompts']} prompts that are not shown: {merits}"
    )
    if choice["ties"]:
        text += f"; {', '.join(choice['ties'])} is as good, and later by name"
    if choice["missing"]:
        text += f"; {', '.join(choice['missing'])} has no images or scores and took no part"
    return text
