"""What every divergence and its slope are at a distance: the plot beside table 3."""

import math

import pandas as pd
import torch
from matplotlib.lines import Line2D

from rocm_core.analysis import Results, divergence_label
from rocm_core.divergences import Divergence, by_formula
from rocm_core.figures import _style as style

TITLE = "The divergences as functions of the squared distance"
NEEDS = ("regularised rocm",)
READS = ()
PLACE = 12.5
_NEAR, _FAR, _POINTS = -2, 3, 101  # powers of ten of d², and points per curve
_STD = 0.5  # at which Fisher and ε are drawn, apart from Jeffreys


@style.styled
def make(results: Results) -> style.Drawing:
    """Left D(d²), right its slope, one line per formula; nothing of `results` is needed."""
    figure, ((value, slope),) = style.panels(1, 2, height=3.0, sharex=True)
    entries: list[Line2D] = []
    data: list[pd.DataFrame] = []
    for alike in by_formula():
        curve = _curve(alike[0])
        colour, marker = style.look(f"rocm-{alike[0].name.replace('_', '-')}")
        for panel, column in ((value, "value"), (slope, "slope")):
            panel.plot(
                curve["squared_distance"],
                curve[column],
                color=colour,
                marker=marker,
                markersize=4,
                markevery=(2 * len(data) % 20, 20),
            )
        names = ", ".join(divergence_label(one.name) for one in alike)
        label = f"{names}: ${alike[0].formula}$"
        entries.append(Line2D([], [], color=colour, marker=marker, label=label))
        data += [curve.assign(divergence=one.name) for one in alike]
    value.set(title="divergence D(d²)", ylim=(10.0**-3, 10.0**2))
    slope.set(title="slope dD/d(d²)", ylim=(10.0**-4, 10.0**1))
    for panel in figure.axes:
        panel.set(xscale="log", yscale="log", xlabel="squared distance d²")
        panel.minorticks_off()
    legend = figure.legend(handles=entries, loc="outside lower center", ncols=2, columnspacing=1.2)
    for text in legend.get_texts():
        text.set_parse_math(True)
    caption = (
        "D(d²) for two Gaussians of equal covariance at the squared distance d² = ‖μ − μ_ref‖²/σ², "
        "and the slope with which it draws a model back. A bounded divergence stops drawing where "
        f"it saturates. Fisher and ε are drawn for σ = s = {_STD:g}. Computed from the code's own "
        "modules, no data; axes are cut."
    )
    columns = ["divergence", "squared_distance", "value", "slope"]
    return style.Drawing(figure, pd.concat(data, ignore_index=True)[columns], TITLE, caption)


def _curve(divergence: Divergence) -> pd.DataFrame:
    """squared_distance, value, slope; without the points where the value overflows."""
    squares = torch.logspace(_NEAR, _FAR, _POINTS, dtype=torch.double).requires_grad_()
    values = divergence(squares, _STD)
    (slopes,) = torch.autograd.grad(values.sum(), squares)
    columns = {"squared_distance": squares.detach(), "value": values.detach(), "slope": slopes}
    frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    return frame[frame["value"] < math.inf]
