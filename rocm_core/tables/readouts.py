"""Where reward hacking shows: gold judge, held-out scorers, noise, diversity and distance."""

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    amount,
    average_deviation,
    held_out,
    metric_label,
    only,
    per_prompt,
)
from rocm_core.tables._table import Block, Cell, Table, entry, measured, rows_of

TITLE = "Read-outs of reward hacking"
READS = ("scores", "readouts", "snapshots", "histories")
PLACE = 7
COLUMNS = ["reward", "method", "readout", "status", "mean", "low", "high", "n", "seeds"]
HELD_OUT = "held_out"
_DISTANCE = "squared_distance"
_NAMES = {
    GOLD: metric_label(GOLD),
    HELD_OUT: "Held-out scorers",
    "high_frequency": "High frequencies",
    "pixel_diversity": "Pixel diversity",
    "clip_diversity": "CLIP diversity",
    _DISTANCE: "Σ d²",
}
_TAIL = 20  # of a training: the last twentieth of its steps


def make(results: Results) -> Table:
    """One block per training reward: its bases and methods, swept ones left out.

    `data` has `COLUMNS`. readout: gold, held_out (mean effect on the other scorers, as
    `rocm_core.analysis.comparison` counts effects), a metric of `rocm_core.evaluation.readouts`,
    squared_distance (Σ_k d² of the last snapshot) or squared_distance_<k> (of the training's last
    twentieth, without interval). status is measured or missing; n counts prompts.
    """
    rows = [
        row
        for reward in results.rewards
        for method in results.models_of(reward)
        for row in _rows(results, reward, method)
    ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    names = [name for name in _NAMES if name in set(data["readout"])]
    cells = {
        (row["reward"], row["method"], row["readout"]): entry(row, digits)
        for row, digits in rows_of(data, ["readout"])
    }
    per_step = data[data["readout"].str.startswith(f"{_DISTANCE}_")]
    header = ["Model", *(_NAMES[name] for name in names)]
    header += ["d² per step, first to last"] if len(per_step) else []
    blocks = []
    for reward in results.rewards:
        block = Block(f"Trained on {results.reward_label(reward)}")
        for method in results.models_of(reward):
            line = [cells.get((reward, method, name), Cell("–")) for name in names]
            steps = [f"{mean:.3g}" for mean in only(per_step, reward=reward, method=method)["mean"]]
            line += [Cell(" / ".join(steps) or "–")] if len(per_step) else []
            block.rows.append([Cell(results.label(method)), *line])
        blocks.append(block)
    return Table(TITLE, _caption(data), header, blocks, data)


def _rows(results: Results, reward: str, method: str) -> list[dict[str, object]]:
    is_base = results.models[method].cell is None
    own = only(results.readouts, reward=None if is_base else reward, method=method)
    scores = {
        name: per_prompt(only(own, metric=name)) for name in results.readouts["metric"].unique()
    }
    if GOLD in results.config.metrics:
        scores[GOLD] = results.scores(method, GOLD, reward)
    if not is_base:
        scores[HELD_OUT] = _held_out(results, reward, method)
    if results.has_snapshots(reward, method):
        own = only(results.snapshots, reward=reward, method=method, metric=_DISTANCE)
        scores[_DISTANCE] = per_prompt(own[own["step"] == own["step"].max()])
    numbers = {name: measured(values) for name, values in scores.items()}
    if not is_base:
        per_step = _per_step(results, reward, method)
        numbers |= {name: {"status": "measured", "mean": mean} for name, mean in per_step.items()}
    key = {"reward": reward, "method": method, "seeds": results.seeds(reward, method)}
    return [key | {"readout": name} | row for name, row in numbers.items()]


def _held_out(results: Results, reward: str, method: str) -> pd.Series:
    base = results.base_of(reward, method)
    changes = []
    # Those of one block are compared by the same scorers.
    for metric in held_out(results.config.metrics, results.used(reward)):
        after, before = results.scores(method, metric, reward), results.scores(base, metric)
        after, before = after.align(before, join="inner")
        if len(after) < 2:
            return pd.Series(dtype=float)
        unit = average_deviation(after.to_numpy(), before.to_numpy())
        changes.append((after - before) / (unit or 1.0))
    return sum(changes[1:], changes[0]) / len(changes) if changes else pd.Series(dtype=float)


def _per_step(results: Results, reward: str, method: str) -> dict[str, float]:
    """d² of each transition where the training measured it, first to last, over seeds."""
    own = only(results.histories, reward=reward, method=method)
    last = own[own["step"] > own["step"].max() * (1 - 1 / _TAIL)]
    names = [name for name in own.columns if name.startswith(f"{_DISTANCE}_")]
    names.sort(key=lambda name: -int(name.rpartition("_")[2]))
    return last[names].mean().dropna().to_dict()


def _caption(data: pd.DataFrame) -> str:
    measured = data[data["n"].notna()]
    prompts, seeds = amount(measured["n"], "prompt"), amount(measured["seeds"].dropna(), "seed")
    return (
        f"Mean ± half-width of the 95 % interval over {prompts} (trained models: {seeds}, averaged"
        " within a prompt). Held-out scorers: mean change since the base of those not trained on,"
        " in standard deviations (of the mean of both variances). High frequencies: share of the"
        " brightness's energy above half of what pixels hold. Diversity: mean distance to the"
        " images of other prompts, of pixels (root mean square, averaged to 16 × 16) and of CLIP's"
        " features (1 − cosine). Σ d²: squared distance to the base over all steps along the last"
        " snapshot's own samples; per step: over the last twentieth of the training, where there"
        " is a divergence."
    )
