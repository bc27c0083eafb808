"""Change of the trained reward on the validation prompts and on further prompt sets."""

import pandas as pd
from matplotlib.lines import Line2D

from rocm_core.analysis import Results, amount, metric_label, only, paired_difference
from rocm_core.figures import _style as style

TITLE = "Change of the trained reward, by prompt set"
NEEDS = ("prompt sets",)
READS = ("scores on every set",)
PLACE = 16
COLUMNS = ["reward", "method", "prompts", "change", "low", "high", "n", "seeds"]
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward, one row per method, one point per prompt set."""
    sets = results.evaluation_sets
    rows = [
        _change(results, reward, method, name)
        for reward in results.rewards
        for method in results.methods(reward)
        for name in sets
    ]
    data = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
    most = max(len(results.methods(reward)) for reward in results.rewards)
    figure, panels = style.by_reward(results.rewards, height=0.9 + 0.38 * most)
    looks = {name: (_COLOURS[i % 6], _MARKERS[i % 6]) for i, name in enumerate(sets)}
    for reward, panel in panels.items():
        methods, of_reward = results.methods(reward), only(data, reward=reward)
        panel.axvline(0, color="#888888", linewidth=1)
        for place, method in enumerate(methods):
            for number, name in enumerate(sets):
                shown = only(of_reward, method=method, prompts=name)
                colour, marker = looks[name]
                panel.errorbar(
                    shown["change"],
                    [place + 0.5 * (number + 0.5) / len(sets) - 0.25] * len(shown),
                    xerr=[shown["change"] - shown["low"], shown["high"] - shown["change"]],
                    color=colour,
                    marker=marker,
                    linestyle="",
                )
        panel.set_yticks(
            range(len(methods)), [results.label(m).replace(", ", ",\n") for m in methods]
        )
        panel.grid(visible=False, axis="y")
        panel.locator_params(axis="x", nbins=4)
        panel.set(ylim=(len(methods) - 0.5, -0.5), xlabel=f"change of {metric_label(reward)}")
        style.note_missing(panel, results, methods, of_reward["method"])
    style.legend(
        figure,
        [
            Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
            for name, (colour, marker) in looks.items()
        ],
    )
    caption = (
        "Difference between a trained model and its own base on the same prompts and noise, "
        f"averaged over {amount(data['seeds'], 'training seed')} within each of "
        f"{amount(data['n'], 'prompt')}; bars: 95 % interval of a bootstrap over prompts. The "
        f"prompt sets are those of the configuration.{style.no_interval(data['low'], 'bar')}"
    )
    return style.Drawing(figure, data, TITLE, caption)


def _change(results: Results, reward: str, method: str, name: str) -> dict[str, object] | None:
    """The row of `data` for one prompt set; None where there are no scores (partial)."""
    sources = results.sources(reward, method)
    base = results.models[results.base_of(reward, method)]
    steps = dict(reversed(results.sample_sets(sources[0])))[name]
    after, seeds = results.scores_on(sources, reward, name, steps)
    before, _ = results.scores_on([base], reward, name, steps)
    if not any(after.index.isin(before.index)):
        return None
    change = paired_difference(after, before)
    numbers = vars(change).values()
    return dict(zip(COLUMNS, [reward, method, name, *numbers, seeds], strict=True))
