"""Where reward hacking shows: gold judge, held-out scorers, noise, diversity and distance."""

from collections.abc import Iterator

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    amount,
    average_deviation,
    decimals,
    is_held_out,
    mean_interval,
    metric_label,
    number,
    per_prompt,
)
from rocm_core.tables._table import Block, Cell, Table

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
        for method in _methods(results, reward)
        for row in _rows(results, reward, method)
    ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    names = [name for name in _NAMES if name in set(data["readout"])]
    halves = (data["high"] - data["low"]).groupby(data["readout"]).median() / 2
    per_step = data["readout"].str.startswith(f"{_DISTANCE}_")
    blocks = []
    for reward in results.rewards:
        block = Block(f"Trained on {metric_label(reward)}")
        for method in _methods(results, reward):
            own = data[(data["reward"] == reward) & (data["method"] == method)]
            entries = {row["readout"]: row for _, row in own.iterrows()}
            cells = [
                _cell(entries[name], halves[name]) if name in entries else Cell("–")
                for name in names
            ]
            steps = " / ".join(f"{value:.3g}" for value in own[per_step[own.index]]["mean"])
            cells += [Cell(steps or "–")] if per_step.any() else []
            block.rows.append([Cell(results.label(method)), *cells])
        blocks.append(block)
    header = ["Model", *(_NAMES[name] for name in names)]
    header += ["d² per step, first to last"] if per_step.any() else []
    return Table(TITLE, _caption(data), header, blocks, data)


def _methods(results: Results, reward: str) -> list[str]:
    methods = results.methods(reward)
    return [*dict.fromkeys(results.base_of(reward, method) for method in methods), *methods]


def _rows(results: Results, reward: str, method: str) -> Iterator[dict[str, object]]:
    is_base = results.models[method].cell is None
    trained_on = None if is_base else reward
    readouts, snapshots = results.readouts, results.snapshots
    same = readouts["reward"].isna() if is_base else readouts["reward"] == reward
    own = readouts[same & (readouts["method"] == method)]
    values = {name: per_prompt(own[own["metric"] == name]) for name in readouts["metric"].unique()}
    if GOLD in results.config.metrics:
        values[GOLD] = results.scores(method, GOLD, trained_on)
    if not is_base:
        values[HELD_OUT] = _held_out(results, reward, method)
    if not is_base and results.has_snapshots(reward, method):
        own = snapshots[(snapshots["reward"] == reward) & (snapshots["method"] == method)]
        own = own[(own["metric"] == _DISTANCE) & (own["step"] == own["step"].max())]
        values[_DISTANCE] = per_prompt(own)
    seeds = None if is_base else results.seeds(reward, method)
    for name, scores in values.items():
        row = {"reward": reward, "method": method, "readout": name, "seeds": seeds}
        if scores.empty:
            yield row | {"status": "missing"}
            continue
        estimate = mean_interval(scores)
        numbers = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        yield row | {"status": "measured", "n": estimate.n} | numbers
    if not is_base:
        for name, value in _per_step(results, reward, method).items():
            row = {"reward": reward, "method": method, "readout": name, "seeds": seeds}
            yield row | {"status": "measured", "mean": value}


def _held_out(results: Results, reward: str, method: str) -> pd.Series:
    base = results.base_of(reward, method)
    changes = []
    for metric in results.config.metrics:
        if metric != GOLD and is_held_out(metric, reward):
            after, before = results.scores(method, metric, reward), results.scores(base, metric)
            after, before = after.align(before, join="inner")
            if len(after) < 2:
                return pd.Series(dtype=float)
            unit = average_deviation(after.to_numpy(), before.to_numpy())
            changes.append((after - before) / (unit or 1.0))
    return sum(changes[1:], changes[0]) / len(changes) if changes else pd.Series(dtype=float)


def _per_step(results: Results, reward: str, method: str) -> dict[str, float]:
    """d² of each transition where the training measured it, first to last, over seeds."""
    histories = results.histories
    if histories.empty:
        return {}
    own = histories[(histories["reward"] == reward) & (histories["method"] == method)]
    last = own[own["step"] > own["step"].max() * (1 - 1 / _TAIL)]
    names = [name for name in own.columns if name.startswith(f"{_DISTANCE}_")]
    names.sort(key=lambda name: -int(name.rpartition("_")[2]))
    return last[names].mean().dropna().to_dict()


def _cell(entry: pd.Series, half: float) -> Cell:
    if entry["status"] == "missing":
        return Cell("missing", muted=True)
    digits = decimals(half)
    own = (entry["high"] - entry["low"]) / 2
    return Cell(f"{number(entry['mean'], digits)} ± {number(own, digits)}")


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
