"""How scores move over the snapshots of a training, paired with the base on the same prompts: as
numbers, and as lines of gold judge against another number, from the base to the end."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    amount,
    mean_interval,
    metric_label,
    only,
    swept_label,
)
from rocm_core.errors import UserError
from rocm_core.figures import _style as style

COLUMNS = ["reward", "method", "metric", "step", "mean", "change", "low", "high", "n", "seeds"]
PAIRED = "95 % interval of the change since step 0, paired over prompts, drawn around the mean"


def trajectories(
    results: Results, metrics: dict[str, list[str]], *, tricks: bool = False
) -> pd.DataFrame:
    """Means over prompts of some metrics (by training reward) at every snapshot.

    Columns: reward, method, metric, step, mean, change (since step 0, paired over prompts) with
    its 95 % interval low..high, n (prompts), seeds (averaged within a prompt). Step 0 is the base.
    Of swept methods only those with a setting against reward hacking are there, if asked for. What
    `stop_by` stopped has its base and, as the last step, the snapshots that were chosen.
    """
    rows = []
    for reward in results.rewards:
        swept = results.methods_with_snapshots(reward, tricks=tricks)
        for method in dict.fromkeys([*results.methods(reward), *swept]):
            own = only(results.snapshots, reward=reward, method=method)
            for metric in metrics[reward]:
                scores = only(own, metric=metric)
                if _is_stopped(results, method) and len(scores):
                    scores = _stopped(results, scores)
                may_lack = scores.empty and results.config.partial
                expected = results.has_snapshots(reward, method) and not may_lack
                if expected and 0 not in set(scores["step"]):
                    raise UserError(
                        f"the snapshots of {reward}/{method} in {results.root} have no {metric} at"
                        " step 0: score them again"
                    )
                table = scores.pivot_table("value", "prompt_id", "step", aggfunc="mean").dropna()
                for step in table.columns if len(table) else ():
                    change = mean_interval(table[step] - table[0])
                    if step == 0:  # the base itself, which is known to change nothing
                        change = Estimate(0.0, 0.0, 0.0, change.n)
                    row = {"reward": reward, "method": method, "metric": metric, "step": int(step)}
                    row |= vars(change) | {"change": change.mean, "mean": table[step].mean()}
                    rows.append(row | {"seeds": scores["seed"].nunique()})
    return pd.DataFrame(rows, columns=COLUMNS)


def _is_stopped(results: Results, method: str) -> bool:
    return "stop_by" in results.models[method].swept


def _stopped(results: Results, scores: pd.DataFrame) -> pd.DataFrame:
    """A method's scores by one metric at step 0, and as the last step those of the images by the
    snapshot that each seed was stopped at; these have the noise of its snapshots' images."""
    reward, method, metric = (scores[key].iloc[0] for key in ("reward", "method", "metric"))
    sources = results.sources(reward, method)
    chosen, _ = results.scores_on(sources, metric, *results.sample_sets(sources[0])[0])
    end = pd.DataFrame({"prompt_id": chosen.index, "value": chosen.to_numpy()})
    end = end.assign(step=scores["step"].max(), seed=scores["seed"].iloc[0])
    return pd.concat([only(scores, step=0), end]) if len(end) else scores[:0]


def ensembles(results: Results) -> str:
    """The end of a caption where rewards are ensembles: what they are made of."""
    made = [results.reward_label(r) for r in results.rewards if r in results.config.ensembles]
    return f" Ensembles: {', '.join(made)}." if made else ""


def counts(data: pd.DataFrame) -> str:
    """The n and seeds of a caption: "64 validation prompts, 1 training seed"."""
    prompts, seeds = amount(data["n"], "validation prompt"), amount(data["seeds"], "training seed")
    return f"{prompts}, {seeds}"


def draw_paths(
    results: Results,
    data: pd.DataFrame,
    metric: Callable[[str], str],
    label: Callable[[str], str],
    *,
    tricks: bool = False,
) -> Figure:
    """One panel per training reward and, where there are several, per few-step generator, in which
    what is alike looks alike: `metric(reward)` on the x axis, labelled `label(reward)`. With
    `tricks` another one of the settings against reward hacking, beside the methods that sweeps gave
    them to, in grey.

    `data` comes from `trajectories`; the gold judge is on the y axis.
    """
    models, split = results.models, len(results.generators) > 1
    evaluated = results.methods_with_snapshots(tricks=tricks)
    swept = [method for method in evaluated if models[method].swept]
    looks = {method: style.look(model.like) for method, model in models.items()}
    looks |= {method: style.spare_look(number) for number, method in enumerate(swept)}
    places: dict[tuple[str, str, bool], list[str]] = {}
    for reward in results.rewards:
        for method in results.methods_with_snapshots(reward, tricks=tricks):
            policy = models[method].policy if split else ""
            places.setdefault((reward, policy, method in swept), []).append(method)
    figure, panels = style.wrapped(len(places), height=2.9)
    for panel, ((reward, policy, is_swept), methods) in zip(panels, places.items(), strict=True):
        own = only(data, reward=reward)
        beside = dict.fromkeys(models[method].family for method in methods if is_swept)
        for method in [*beside, *methods]:
            path, (colour, marker) = only(own, method=method), looks[method]
            if len(path):
                colour = style.GREY if method in beside else colour
                line = not _is_stopped(results, method)
                _draw(panel, path, (colour, marker), metric(reward), line=line)
        style.note_missing(panel, results, methods, own["method"])
        title = metric_label(reward)
        title = f"{title}, {policy}" if split else f"Trained on {title}"
        if is_swept:
            title = f"{title}, swept"
            _share(panel, dict(zip(places, panels, strict=True)).get((reward, policy, False)))
        panel.set(title=title, xlabel=label(reward), ylabel=metric_label(GOLD))
        panel.locator_params(nbins=5)
    base = Line2D([], [], color="black", marker="o", linestyle="", label="base")
    alike = {models[m].like: m for m in results.methods_with_snapshots()[::-1]}
    shown = list(alike.values())[::-1]
    style.legend(figure, [base, *style.handles(results, shown, where=False)])
    if swept:
        style.legend_below(figure, _groups(results, swept, looks))
    return figure


def _share(panel: Axes, other: Axes | None) -> None:
    """Give a panel the axes of another, if there is one."""
    if other:
        panel.sharex(other)
        panel.sharey(other)


def _groups(results: Results, swept: list[str], looks: dict[str, style.Look]) -> list[list[Line2D]]:
    """Legend entries: each method that sweeps gave settings to, in grey, and these."""
    groups: dict[str, list[Line2D]] = {}
    for method in swept:
        model, (colour, marker) = results.models[method], looks[method]
        if model.family not in groups:
            marked, label = looks[model.family][1], results.label(model.family)
            grey = Line2D([], [], color=style.GREY, marker=marked, label=label)
            groups[model.family] = [grey]
        entry = Line2D([], [], color=colour, marker=marker, label=swept_label(model))
        if _is_stopped(results, method):
            entry.set_linestyle("")
        groups[model.family].append(entry)
    return list(groups.values())


def _draw(panel: Axes, data: pd.DataFrame, look: style.Look, metric: str, *, line: bool) -> None:
    """The path of a method to its end, marked, from the base; without `line` these two alone."""
    colour, marker = look
    x, y = (only(data, metric=name) for name in (metric, GOLD))
    if line:
        panel.plot(x["mean"], y["mean"], color=colour, marker=".", markersize=4, linewidth=1.4)
    last = [[[p["change"] - p["low"]], [p["high"] - p["change"]]] for p in (x.iloc[-1], y.iloc[-1])]
    end = x["mean"].iloc[-1], y["mean"].iloc[-1]
    panel.errorbar(*end, xerr=last[0], yerr=last[1], color=colour, elinewidth=1.2, zorder=3)
    panel.plot(*end, marker=marker, color=colour, ms=7, mec="white", mew=0.5, zorder=4)
    start = x["mean"].iloc[0], y["mean"].iloc[0]
    panel.plot(*start, "o", color="black", ms=6, zorder=5, clip_on=False)
