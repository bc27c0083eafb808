"""Reward hacking in pictures, and the best snapshot of each divergence (figure 6 of the paper)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rocm_core.analysis import GOLD, Results, Source, evaluators, metric_label, only, overall
from rocm_core.figures import _style as style
from rocm_core.figures._images import Block, draw_blocks, lead
from rocm_core.grid import snapshot_prompts, snapshot_steps

TITLE = "Images along the training, and the best snapshot of each divergence"
NEEDS = ("rocm snapshots", "images")
READS = ("snapshots", "prompts of snapshots")
PLACE = 6
COLUMNS = ["part", "reward", "method", "seed", "step", "verdict", "prompt_id", "file"]
_STAGES, _PROMPTS = 5, 3  # rows of A and of B, at most


@style.styled
def make(results: Results) -> style.Drawing:
    """One column per ROCM method trained on the aesthetic score, or on the first reward of which
    there are snapshots; on a prompt set of its own where a sweep has one, as the paper's animals.
    A: one row per stage of the training. B: one row per prompt, at each method's best snapshot.

    `data` has `COLUMNS`: verdict is the evaluators' mean at that step, which chose those of B.
    """
    models = _models(results)
    reward = str(models[0].reward)
    assert models[0].cell
    evaluated_on = models[0].cell.evaluated_on
    evaluated = results.prompt_set(evaluated_on)[: snapshot_prompts(results.config)]
    prompts = evaluated[:_PROMPTS]
    verdicts = {model.method: _verdicts(results, model) for model in models}
    best: dict[str, Any] = {
        m: scores.drop(0).idxmax() if len(scores) > 1 else None for m, scores in verdicts.items()
    }
    stages = _stages([[0, *snapshot_steps(m.cell.settings)] for m in models if m.cell])
    along = [
        ("A", m, s, prompts[0])
        for steps in stages.values()
        for m, s in zip(models, steps, strict=True)
    ]
    chosen = [("B", m, best[m.method], prompt) for prompt in prompts for m in models]
    rows, paths = [], []
    for part, model, step, prompt in [*along, *chosen]:
        path = None if step is None else results.snapshot_image(model, step, prompt.id)
        file = path.relative_to(results.root).as_posix() if path else None
        verdict = verdicts[model.method].get(step)
        rows.append([part, reward, model.method, model.seed, step, verdict, prompt.id, file])
        paths.append(path)
    names = [results.label(model.family, short=True) for model in models]
    at = [f"{name}\nstep {best[m.method] or '?'}" for name, m in zip(names, models, strict=True)]
    said = [f"{share:.0%} of the training" for share in stages]
    said[0] = f"The base model: {prompts[0].text}"
    blocks = [
        Block("A  Along the training", names, _rows(said, paths[: len(along)])),
        Block("B  The best snapshot", at, _rows([p.text for p in prompts], paths[len(along) :])),
    ]
    evaluator = "gold judge" if GOLD in results.config.metrics else "held-out metrics"
    caption = (
        f"Models trained on {metric_label(reward)}, the first training seed; one noise along a row."
        f" A: the first {evaluated_on} prompt at the snapshots nearest to shares of each training,"
        " from the base on. B:"
        f" the first {len(prompts)} prompts at the snapshot of each training with the best"
        f" {evaluator} on average over {len(evaluated)} {evaluated_on} prompts, these included."
    )
    return style.Drawing(draw_blocks(blocks), pd.DataFrame(rows, columns=COLUMNS), TITLE, caption)


def _models(results: Results) -> list[Source]:
    """The first seed of each ROCM method with snapshots, of the reward that is shown."""
    cells = [
        (source, source.cell)
        for source in results.trained
        if source.cell
        and source.algorithm == "direct"
        and source.cell.settings.snapshot_every
        and source.swept.keys() <= {"prompts"}
    ]
    reward = lead([cell.reward for _, cell in cells], "aesthetic")
    sets = {cell.evaluated_on for _, cell in cells if cell.reward == reward}
    chosen = lead(sorted(sets - {"validation"}) or ["validation"], "animals")
    first = {
        source.method: source
        for source, cell in reversed(cells)
        if (cell.reward, cell.evaluated_on) == (reward, chosen)
    }
    return list(reversed(first.values()))


def _stages(kept: Sequence[Sequence[int]]) -> dict[float, list[int]]:
    """The step of each training that is nearest to some shares of it: evenly spread over what was
    kept where that is least, from the base (0) to the end."""
    least = min(kept, key=len)
    places = np.linspace(0, len(least) - 1, min(_STAGES, len(least)))
    shares = [least[round(place)] / least[-1] for place in places]
    return {
        share: [min(steps, key=lambda step: abs(step / steps[-1] - share)) for steps in kept]
        for share in shares
    }


def _verdicts(results: Results, model: Source) -> pd.Series:
    """Mean verdict of the evaluators at every step; empty where the snapshots have no scores."""
    own = only(results.snapshots, reward=model.reward, method=model.method, seed=model.seed)
    own = own[own["metric"].isin(evaluators(results, str(model.reward)))]
    scores = own.pivot(index=["step", "prompt_id"], columns="metric", values="value")
    if scores.empty:
        return pd.Series(dtype=float)
    return overall(scores, scores.loc[[0]]).groupby("step").mean()


def _rows(
    texts: Sequence[str], paths: Sequence[Path | None]
) -> list[tuple[str, Sequence[Path | None]]]:
    width = len(paths) // len(texts)
    return [(text, paths[i * width : (i + 1) * width]) for i, text in enumerate(texts)]
