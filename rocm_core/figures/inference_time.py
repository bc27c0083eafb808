"""Trained reward against the time that an image takes, at several numbers of inference steps."""

import pandas as pd
from matplotlib.axes import Axes

from rocm_core.analysis import Results, Source, amount, mean_interval, metric_label, only
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
            for method in results.models_of(reward)
            for row in _points(results, reward, method)
        ],
        columns=COLUMNS,
    )
    figure, panels = style.by_reward(results.rewards, height=2.6)
    for reward, panel in panels.items():
        own, methods = only(data, reward=reward), results.models_of(reward)
        for method in methods:
            _draw(panel, results.models[method], only(own, method=method))
        times = own["seconds_per_image"]
        style.log_x(panel, times.min(), times.max())
        panel.set(xlabel="seconds an image", ylabel=metric_label(reward))
        style.note_missing(panel, results, methods, own["method"])
    bases = [base.method for base in results.bases]
    style.legend(figure, style.handles(results, [*bases, *results.methods()]))
    steps = ", ".join(str(k) for k in sorted(set(data["steps"])))
    caption = (
        f"Score on {amount(data['n'], 'validation prompt')} of the reward that a model was trained "
        f"on, at {steps} inference steps from left to right, averaged over "
        f"{amount(data['seeds'].dropna(), 'training seed')} within a prompt; bars: 95 % interval "
        "over prompts. Time: from text to pixels, the median over batches after a first one, the "
        "model already loaded. Dashed: base models."
        f"{style.no_interval(data['low'], 'bar')}"
    )
    return style.Drawing(figure, data, TITLE, caption)


def _points(results: Results, reward: str, method: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    sources = results.sources(reward, method)
    sets = results.sample_sets(sources[0])
    for steps in sorted(k for name, k in sets if name == "validation"):
        scores, seeds = results.scores_on(sources, reward, "validation", steps)
        measured = [results.seconds_per_image(source, steps) for source in sources]
        times = [seconds for seconds in measured if seconds is not None]
        if seeds and times:
            row = {"reward": reward, "method": method, "steps": steps}
            row |= {"seconds_per_image": float(pd.Series(times).median())}
            row |= {"seeds": seeds if sources[0].cell else None}
            rows.append(row | vars(mean_interval(scores)))
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
