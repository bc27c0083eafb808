"""Table 2: the best β of each divergence, and the whole sweep behind it."""

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    SweepPoint,
    amount,
    decimals,
    halves,
    metric_label,
    only,
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
    """Two blocks per training reward: for each divergence the best β, and every β.

    `data` has `COLUMNS`, one row per β that was tried: judged and trained are the changes of the
    evaluators' verdict and of the training reward; status is measured or missing; edge marks the
    smallest and the largest β of a divergence. Where a search chose a β, that one is the best, and
    the prompts are those that it did not choose on.
    """
    points = sweep_points(results, trials=True)
    data = pd.DataFrame([_row(results, point) for point in points], columns=COLUMNS)
    tried = data.groupby(["reward", "divergence"])
    data["best"] = data["judged"] == tried["judged"].transform("max")
    for index, point in enumerate(points):
        if point.trial:
            chosen = results.choice(point.reward, point.family).get("beta")
            data.loc[index, "best"] = point.beta == chosen
    least, most = (tried["beta"].transform(end) for end in ("min", "max"))
    data["edge"] = (data["beta"] == least) | (data["beta"] == most)
    blocks = []
    for reward in results.rewards:
        own = only(data, reward=reward)
        digits = {m: decimals((own[f"{m}_high"] - own[f"{m}_low"]).median() / 2) for m in _MEASURES}
        of_methods = [only(own, divergence=method) for method in results.methods(reward)]
        sweeps = [rows for rows in of_methods if len(rows)]
        every = [
            _line(results, row, digits, bold=row["best"])
            for rows in sweeps
            for _, row in rows.iterrows()
        ]
        best = [_best(results, rows, digits) for rows in sweeps]
        name = metric_label(reward)
        if sweeps:
            blocks += [
                Block(f"{name}: the best", best),
                Block(f"{name}: all that were tried", every),
            ]
    best_by = metric_label(GOLD) if GOLD in results.config.metrics else "Held-out metrics"
    header = ["Divergence", "β", best_by, "Trained reward"]
    searched = any(point.trial for point in points)
    return Table(TITLE, _caption(results, data, searched), header, blocks, data)


def _row(results: Results, point: SweepPoint) -> dict[str, object]:
    reward, method = point.reward, point.method
    row = {"reward": reward, "divergence": point.family, "beta": point.beta, "status": "missing"}
    judged = verdicts(results, reward, method)
    base = results.base_of(reward, method)
    trained = results.scores(method, reward, reward), results.scores(base, reward)
    ids = [prompt.id for prompt in results.prompts]
    kept = halves(ids)[1] if point.trial else ids
    pairs = [[series[series.index.isin(kept)] for series in pair] for pair in (judged, trained)]
    if not all(any(after.index.isin(before.index)) for after, before in pairs):
        return row
    changes = [paired_difference(*pair) for pair in pairs]
    row |= {"status": "measured", "n": changes[0].n, "seeds": results.seeds(reward, method)}
    for measure, change in zip(_MEASURES, changes, strict=True):
        row |= {measure: change.mean, f"{measure}_low": change.low, f"{measure}_high": change.high}
    return row


def _best(results: Results, rows: pd.DataFrame, digits: dict[str, int]) -> list[Cell]:
    """The line of the β of one divergence that is best."""
    for _, row in rows[rows["best"]].head(1).iterrows():
        return _line(results, row, digits, bold=False)
    return [Cell(results.label(rows["divergence"].iloc[0])), *_GAP]


def _line(results: Results, row: pd.Series, digits: dict[str, int], bold: bool) -> list[Cell]:
    label = Cell(results.label(row["divergence"]))
    spelled = "unknown" if pd.isna(row["beta"]) else f"{row['beta']:.3g}"
    beta = Cell(spelled + ("†" if row["best"] and row["edge"] else ""), bold=bool(bold))
    if row["status"] == "missing":
        return [label, beta, *_GAP[1:]]
    estimates = {
        measure: Estimate(row[measure], row[f"{measure}_low"], row[f"{measure}_high"], row["n"])
        for measure in _MEASURES
    }
    numbers = [estimate.change(digits[measure]) for measure, estimate in estimates.items()]
    return [label, beta, *(Cell(text, bold=bool(bold)) for text in numbers)]


def _caption(results: Results, data: pd.DataFrame, searched: bool) -> str:
    judge = "gold judge"
    if GOLD not in results.config.metrics:
        names = [metric_label(name) for name in results.config.metrics]
        judge = (
            f"held-out metrics (those of {', '.join(names)} that the model was not trained on; the"
            " mean of their changes, each in standard deviations of the base model's scores)"
        )
    choice, doubt = (
        f"of those tried, with the largest change of the {judge}",
        " It does not allow for the choice among several, which flatters the best.",
    )
    if searched:
        choice, doubt = (
            "that held-out scorers preferred in a search, on one half of the prompts, and"
            f" the change of the {judge} on the other half",
            "",
        )
    counts = amount(data["n"].dropna(), "prompt"), amount(data["seeds"].dropna(), "training seed")
    sentences = [
        f"For each divergence the β, {choice} against the base model on the same prompts and noise;"
        " below, bold among all that were tried. In brackets the 95 % interval of a bootstrap over"
        f" {counts[0]} ({counts[1]}, averaged within a prompt).{doubt} †: the smallest or the"
        " largest that was tried; the best may lie beyond."
    ]
    if (data["status"] == "missing").any():
        sentences.append('"missing": the cell does not exist yet (partial results).')
    return " ".join(sentences)
