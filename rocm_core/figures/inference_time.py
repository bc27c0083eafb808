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
    """One panel per training reward, one line per method or base, one point per number of steps."""
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
            _draw(panel, results.models[method], line)
        times = data.loc[data["reward"] == reward, "seconds_per_image"]
        style.log_x(panel, times.min(), times.max())
        panel.set_title(f"Trained on {metric_label(reward)}")
        panel.set_xlabel("seconds an image")
        panel.set_ylabel(metric_label(reward))
        style.note_missing(panel, results, [m for m, line in lines.items() if line.empty])
    bases = [base.method for base in results.bases]
    style.legend(figure, style.handles(results, [*bases, *results.methods()]))
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
        measured = [results.seconds_per_image(source, steps) for source in sources]
        times = [seconds for seconds in measured if seconds is not None]
        if seeds and times:
            estimate = mean_interval(scores)
            numbers = [estimate.mean, estimate.low, estimate.high, estimate.n]
            number = None if sources[0].cell is None else seeds
            values = [reward, method, steps, float(pd.Series(times).median()), *numbers, number]
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _draw(panel: Axes, source: Source, line: pd.DataFrame) -> None:
    colour, marker = style.look(source.family)
    reach = [line["mean"] - line["low"], line["high"] - line["mean"]]
    panel.errorbar(
        line["seconds_per_image"],
        line["mean"],
        yerr=reach,
        color=colour,
        marker=marker,
        linestyle="-" if source.cell else "--",
        elinewidth=1.0,
    )
