"""Trained reward against the time that an image takes, at several numbers of inference steps."""

import pandas as pd
from matplotlib.axes import Axes

from rocm_core.analysis import Results, Source, amount, mean_interval, metric_label
from rocm_core.figures import _style as style

TITLE = "Trained reward against the time an image takes"
NEEDS = ("inference steps",)
READS = ("scores at every step", "times")
PLACE = 14
COLUMNS = [
    *("reward", "method", "steps", "seconds_per_image"),
    *("mean", "low", "high", "n", "seeds"),
]


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel a training reward, one line a method or base, one point a number of steps."""
    data = pd.DataFrame(
        [
            row
            for reward in results.rewards
            for method, sources in _lines(results, reward).items()
            for row in _points(results, reward, method, sources)
        ],
        columns=COLUMNS,
    )
    figure, axes = style.wrapped(len(results.rewards), height=2.6)
    for panel, reward in zip(axes, results.rewards, strict=True):
        names = list(_lines(results, reward))
        lines = {m: data[(data["reward"] == reward) & (data["method"] == m)] for m in names}
        for method, line in lines.items():
            _draw(panel, method, line)
        paces = data.loc[data["reward"] == reward, "seconds_per_image"]
        style.log_x(panel, paces.min(), paces.max())
        panel.set_title(f"Trained on {metric_label(reward)}")
        panel.set_xlabel("seconds an image")
        panel.set_ylabel(metric_label(reward))
        style.note_missing(panel, [m for m, line in lines.items() if line.empty])
    bases = [base.method for base in results.bases]
    style.legend(figure, style.handles([*bases, *results.methods()]))
    steps = ", ".join(str(k) for k in sorted(set(data["steps"])))
    caption = (
        f"Score on {amount(data['n'], 'validation prompt')} of the reward that a model was trained "
        f"on, at {steps} inference steps from left to right, averaged over "
        f"{amount(data['seeds'].dropna(), 'training seed')} within a prompt; bars: 95 % interval "
        "over prompts. Time: from text to pixels, the median over batches after a first one, the "
        "model already loaded. Dashed: base models."
    )
    return style.Drawing(figure, data, TITLE, caption)


def _lines(results: Results, reward: str) -> dict[str, list[Source]]:
    """The sources of each method of a reward, and before them of the bases these started from."""
    methods = results.methods(reward)
    wanted = {results.base_of(reward, method) for method in methods}
    bases = {base.method: [base] for base in results.bases if base.method in wanted}
    return bases | {method: results.sources(reward, method) for method in methods}


def _points(
    results: Results, reward: str, method: str, sources: list[Source]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    sets = results.sample_sets(sources[0])
    for steps in sorted(k for name, k in sets if name == "validation"):
        scores, seeds = results.scores_on(sources, reward, "validation", steps)
        measured = [results.pace(source, steps) for source in sources]
        paces = [pace for pace in measured if pace is not None]
        if seeds and paces:
            found = mean_interval(scores)
            numbers = [found.mean, found.low, found.high, found.n]
            number = None if sources[0].reward is None else seeds
            pace = float(pd.Series(paces).median())
            values = [reward, method, steps, pace, *numbers, number]
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _draw(panel: Axes, method: str, line: pd.DataFrame) -> None:
    colour, marker = style.look(method)
    reach = [line["mean"] - line["low"], line["high"] - line["mean"]]
    panel.errorbar(
        line["seconds_per_image"],
        line["mean"],
        yerr=reach,
        color=colour,
        marker=marker,
        linestyle="--" if method.startswith("base-") else "-",
        elinewidth=1.0,
    )
