"""Table 2: the best β of each divergence, and the whole sweep behind it."""

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    SweepPoint,
    amount,
    decimals,
    metric_label,
    number,
    paired_difference,
    sweep_points,
    verdicts,
)
from rocm_core.tables._table import Block, Cell, Table

TITLE = "The best β of each divergence of ROCM, and all that were tried"
NEEDS = ("beta sweeps",)
READS = ("scores", "manifests")
PLACE = 2
_MEASURES = ("judged", "trained")
_GAP = [Cell("missing", muted=True)] * 3
COLUMNS = [
    *("reward", "divergence", "beta", "status", "best", "edge"),
    *(f"{measure}{end}" for measure in _MEASURES for end in ("", "_low", "_high")),
    *("n", "seeds"),
]


def make(results: Results) -> Table:
    """Two blocks per training reward: for each divergence the β that the judges prefer; every β.

    `data` has `COLUMNS`, one row per β that was tried: judged and trained are the changes of the
    judges' verdict and of the training reward; status is measured or missing; edge marks the
    smallest and the largest β of a divergence.
    """
    data = pd.DataFrame([_row(results, point) for point in sweep_points(results)], columns=COLUMNS)
    tried = data.groupby(["reward", "divergence"])
    data["best"] = data["judged"] == tried["judged"].transform("max")
    least, most = (tried["beta"].transform(end) for end in ("min", "max"))
    data["edge"] = (data["beta"] == least) | (data["beta"] == most)
    blocks = []
    for reward in results.rewards:
        own = data[data["reward"] == reward]
        if own.empty:
            continue
        digits = {m: decimals((own[f"{m}_high"] - own[f"{m}_low"]).median() / 2) for m in _MEASURES}
        best = Block(f"{metric_label(reward)}: the best")
        every = Block(f"{metric_label(reward)}: all that were tried")
        for method in results.methods(reward):
            rows = own[own["divergence"] == method]
            every.rows.extend(_line(results, r, digits, r["best"]) for _, r in rows.iterrows())
            chosen = rows[rows["best"]]
            if len(chosen):
                best.rows.append(_line(results, chosen.iloc[0], digits, bold=False))
            elif len(rows):
                best.rows.append([Cell(results.label(method)), *_GAP])
        blocks += [best, every]
    header = ["Divergence", "β", _judge(results), "Trained reward"]
    return Table(TITLE, _caption(results, data), header, blocks, data)


def _row(results: Results, point: SweepPoint) -> dict[str, object]:
    reward, method = point.reward, point.method
    row = {"reward": reward, "divergence": point.family, "beta": point.beta, "status": "missing"}
    base = results.base_of(reward, method)
    pairs = {
        "judged": verdicts(results, reward, method),
        "trained": (results.scores(method, reward, reward), results.scores(base, reward)),
    }
    if any(scores.empty for pair in pairs.values() for scores in pair):
        return row
    row |= {"status": "measured", "seeds": results.seeds(reward, method)}
    for measure, (after, before) in pairs.items():
        change = paired_difference(after, before)
        row |= {measure: change.mean, "n": change.n}
        row |= {f"{measure}_low": change.low, f"{measure}_high": change.high}
    return row


def _line(results: Results, row: pd.Series, digits: dict[str, int], bold: bool) -> list[Cell]:
    label = Cell(results.label(row["divergence"]))
    spelled = "auto" if pd.isna(row["beta"]) else f"{row['beta']:.3g}"
    beta = Cell(spelled + ("†" if row["best"] and row["edge"] else ""), bold=bool(bold))
    if row["status"] == "missing":
        return [label, beta, *_GAP[1:]]
    cells = []
    for measure in _MEASURES:
        mean, low, high = (
            number(row[f"{measure}{end}"], digits[measure], signed=True)
            for end in ("", "_low", "_high")
        )
        cells.append(Cell(f"{mean} [{low}, {high}]", bold=bool(bold)))
    return [label, beta, *cells]


def _judge(results: Results) -> str:
    return metric_label(GOLD) if GOLD in results.config.metrics else "Held-out metrics"


def _caption(results: Results, data: pd.DataFrame) -> str:
    judge = "gold judge"
    if GOLD not in results.config.metrics:
        names = [metric_label(name) for name in results.config.metrics]
        judge = (
            f"held-out metrics (those of {', '.join(names)} that the model was not trained on; the"
            " mean of their changes, each in standard deviations of the base model's scores)"
        )
    sentences = [
        f"For each divergence the β, of those tried, with the largest change of the {judge} against"
        " the base model on the same prompts and noise; below, bold among all that were tried. In"
        f" brackets the 95 % interval of a bootstrap over {amount(data['n'].dropna(), 'prompt')}"
        f" ({amount(data['seeds'].dropna(), 'training seed')}, averaged within a prompt). It does"
        " not allow for the choice among several, which flatters the best. †: the smallest or the"
        " largest that was tried; the best may lie beyond."
    ]
    if (data["status"] == "missing").any():
        sentences.append('"missing": the cell does not exist yet (partial results).')
    return " ".join(sentences)
