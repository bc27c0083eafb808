import itertools
import subprocess
import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from synthetic import make_config, make_wide_config, write_results

from rocm_core.errors import UserError
from rocm_core.figures import FIGURES, _style, figures
from rocm_core.fingerprint import module_closure
from rocm_core.render import render
from rocm_core.results import Results

EFFECTS = {
    ("hpsv2", "rocm-none"): {"hpsv2": 0.05, "gold": -0.3, "squared_distance": 400.0},
    ("hpsv2", "rocm-kl"): {"hpsv2": 0.02, "gold": 0.1, "squared_distance": 10.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make_config()
    write_results(root, config, EFFECTS)
    return config, root


WIDE = {
    ("hpsv2", "rlcm"): {"hpsv2": 0.02, "slope": 0.002},
    ("hpsv2", "ddpo"): {"hpsv2": 0.01, "slope": 0.0005},
    ("hpsv2", "rlcm--inference_steps-2"): {"slope": 0.004},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    root = tmp_path_factory.mktemp("wide")
    config = make_wide_config()
    write_results(root, config, EFFECTS | WIDE)
    return config, root


@pytest.fixture
def having(name, finished, wide):
    """Results that have the data of the figure `name`."""
    return finished if name in figures(finished[0]) else wide


def draw(name, config, root):
    return import_module(f"rocm_core.figures.{name}").make(Results(config, root))


def last(data, method, metric):
    rows = data[(data["reward"] == "hpsv2") & (data["method"] == method)]
    return rows[rows["metric"] == metric].iloc[-1]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_as_pdf_png_and_csv_with_the_same_bytes_each_time(
    name, having, tmp_path
):
    for folder in ("a", "b"):
        render("figure", name, *having, tmp_path / folder / name)
    for suffix in (".pdf", ".png", ".csv"):
        first, second = ((tmp_path / f / name).with_suffix(suffix) for f in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    assert len(pd.read_csv(tmp_path / "a" / f"{name}.csv")) > 0
    with Image.open(tmp_path / "a" / f"{name}.png") as image:
        assert image.info["Title"] and image.info["Description"]
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("grid", ["narrow", "wide"])
def test_no_text_is_cut_off_or_overlaps_another(name, grid, having, wide, monkeypatch):
    boxes = []
    draw_text = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text():
            boxes.append((text.get_text(), text.get_window_extent(renderer).padded(-1)))
        draw_text(text, renderer)

    figure = draw(name, *(wide if grid == "wide" else having)).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays the figure out
    monkeypatch.setattr(Text, "draw", record)
    canvas.draw()
    assert len(boxes) > 5
    for text, box in boxes:
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1), text
    for (one, box), (other, next_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(next_box), f"{one!r} overlaps {other!r}"


def test_trajectories_recover_the_planted_changes_with_their_intervals(finished):
    data = draw("training", *finished).data
    hacked = last(data, "rocm-none", "gold")
    assert hacked["step"] == 40 and hacked["n"] == 16 and hacked["seeds"] == 1
    assert hacked["change"] == pytest.approx(-0.3, abs=0.05) and hacked["high"] < 0
    scores = pd.read_csv(finished[1] / "samples/hpsv2/rocm-none/seed-0/snapshots/scores.csv")
    gold = scores[scores["metric"] == "gold"].pivot(
        index="prompt_id", columns="step", values="value"
    )
    half = 1.959963984540054 * (gold[40] - gold[0]).std() / 4
    assert hacked["high"] - hacked["low"] == pytest.approx(2 * half)
    assert last(data, "rocm-none", "hpsv2")["low"] > 0
    assert (data[data["step"] == 0]["change"] == 0).all()


def test_kl_is_half_the_squared_distance(finished):
    data = draw("gold_vs_kl", *finished).data
    assert last(data, "rocm-none", "kl")["mean"] == pytest.approx(200)
    assert last(data, "rocm-kl", "kl")["mean"] == pytest.approx(5)


def test_squared_distance_has_one_line_for_each_stochastic_transition(finished):
    drawing = draw("squared_distance", *finished)
    assert sorted(drawing.data["transition"].unique()) == [2, 3, 4]
    line = drawing.data[(drawing.data["transition"] == 2) & (drawing.data["method"] == "rocm-kl")]
    line = line[line["reward"] == "hpsv2"]
    assert np.allclose(line["squared_distance"], line["step"] / 20)
    assert set(drawing.data["method"]) == {"rocm-kl", "rocm-js"}  # rocm-none computes no d²
    assert len(drawing.figure.axes) == 4
    assert all(len(panel.get_lines()) == 3 for panel in drawing.figure.axes)


def test_a_long_training_is_thinned_in_the_data_of_the_figure(tmp_path):
    config = make_config(training={"iterations": 1000, "snapshot_every": 500}, rewards=["hpsv2"])
    write_results(tmp_path, config)
    data = draw("squared_distance", config, tmp_path).data
    assert data.groupby(["method", "transition"]).size().max() == 200


def test_samples_show_the_same_prompts_for_the_base_and_every_method(finished):
    drawing = draw("samples", *finished)
    shown = drawing.data.groupby(["reward", "method"])["prompt_id"].agg(list)
    assert len(shown) == 2 * 4
    assert all(ids == ["p0000", "p0001", "p0002", "p0003"] for ids in shown)
    assert len(drawing.figure.axes) == len(drawing.data) == 32
    assert (finished[1] / drawing.data["file"].iloc[0]).is_file()


@pytest.mark.parametrize("name", FIGURES)
def test_a_missing_cell_is_marked_when_partial_and_an_error_otherwise(name, tmp_path):
    make, method = make_config, "rocm-kl"
    if name not in figures(make()):
        make, method = make_wide_config, "rlcm"
    write_results(tmp_path, make(), EFFECTS)
    for path in tmp_path.glob(f"*/hpsv2/{method}/seed-*/**/*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(UserError, match=f"hpsv2/{method}/seed-0"):
        draw(name, make(), tmp_path)
    drawing = draw(name, make(partial=True), tmp_path)
    texts = [text.get_text() for text in drawing.figure.findobj(Text)]
    assert any("missing" in text for text in texts)


def test_snapshots_without_the_base_are_refused(tmp_path):
    config = make_config()
    write_results(tmp_path, config)
    path = tmp_path / "samples/hpsv2/rocm-js/seed-0/snapshots/scores.csv"
    scores = pd.read_csv(path)
    scores[scores["step"] > 0].to_csv(path, index=False)
    with pytest.raises(UserError, match="hpsv2/rocm-js .* no hpsv2 at step 0"):
        draw("training", config, tmp_path)


def test_efficiency_shows_the_planted_gain_against_every_cost(wide):
    data = draw("efficiency", *wide).data
    of_reward = data[data["reward"] == "hpsv2"]
    rlcm, ddpo = (of_reward[of_reward["method"] == m].iloc[-1] for m in ("rlcm", "ddpo"))
    # The planted gain a step, two steps' window, and seeds that differ by 0.002.
    assert rlcm["mean"] == pytest.approx(0.3 + 0.002 * 39.5 + 0.001)
    assert rlcm["deviation"] == pytest.approx(0.002 / 2**0.5) and rlcm["seeds"] == 2
    assert (rlcm["reward_queries"], ddpo["reward_queries"]) == (320, 320)
    assert (rlcm["unet_passes"], ddpo["unet_passes"]) == (8 * 4 * 40, 8 * 40 * 40)
    assert ddpo["seconds"] == 10 * rlcm["seconds"] == 200
    assert "rlcm--inference_steps-2" not in set(data["method"])


def test_the_running_mean_is_over_as_many_queries_whatever_the_batch(tmp_path):
    methods = {"rocm-none": {"iterations": 400}, "rlcm": {}}
    config = make_config(methods=methods, rewards=["hpsv2"], training={"iterations": 40})
    write_results(tmp_path, config, {("hpsv2", "rocm-none"): {"slope": 0.0}})
    history = tmp_path / "cells/hpsv2/rocm-none/seed-0/history.csv"
    table = pd.read_csv(history)
    table["reward"], table["reward_queries"] = table["step"] % 2, table["step"]  # one a step
    table.to_csv(history, index=False)
    data = draw("efficiency", config, tmp_path).data
    line = data[data["method"] == "rocm-none"]
    # Twenty windows in the 320 queries of rlcm: 16 queries, an even number of zeros and ones.
    assert line["reward_queries"].iloc[0] == 16 and np.allclose(line["mean"], 0.5)
    assert len(line) == 200 and line["reward_queries"].iloc[-1] == 400


def test_published_curves_are_laid_under_ours(wide, tmp_path):
    path = tmp_path / "curves.csv"
    rows = ["x_axis,task,method,x,y", "reward_queries,laion_aesthetic,RLCM,100,6.5"]
    rows += ["reward_queries,hpsv2,DDPO,50,0.3", "a6000_gpu_hours,hpsv2,DDPO,1,0.3"]
    path.write_text("\n".join([*rows, "reward_queries,unheard,DDPO,1,1"]))
    config = make_wide_config(efficiency_overlay=str(path))
    data = draw("efficiency", config, wide[1]).data
    published = data[data["origin"] == "published"]
    found = set(zip(published["reward"], published["method"], published["mean"], strict=True))
    assert found == {("aesthetic", "rlcm", 6.5), ("hpsv2", "ddpo", 0.3)}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="curves.csv .efficiency_overlay. is no CSV file with"):
        draw("efficiency", config, wide[1])


def test_horizons_hold_the_sweep_and_the_method_as_configured(wide):
    drawing = draw("horizon", *wide)
    data = drawing.data[drawing.data["reward"] == "hpsv2"]
    assert set(data["horizon"]) == {2, 4, 8} and set(data["method"]) == {"rlcm"}
    last = data.groupby("horizon")["mean"].last()
    assert last[2] == pytest.approx(0.3 + 0.004 * 39.5 + 0.001)
    assert last[2] > last[4] > last[8]
    assert [text.get_text() for text in drawing.figure.legends[0].texts] == [
        "K = 2",
        "K = 4",
        "K = 8",
    ]


def test_inference_time_is_the_measured_one_at_every_number_of_steps(wide):
    data = draw("inference_time", *wide).data
    rlcm = data[(data["reward"] == "hpsv2") & (data["method"] == "rlcm")]
    assert rlcm["steps"].tolist() == [1, 2, 4] and rlcm["seeds"].tolist() == [2, 2, 2]
    assert np.allclose(rlcm["seconds_per_image"], [0.01, 0.02, 0.04])
    scores = pd.concat(
        pd.read_csv(wide[1] / f"samples/hpsv2/rlcm/seed-{seed}/validation/steps-2/scores.csv")
        for seed in (0, 1)
    )
    expected = scores[scores["metric"] == "hpsv2"]["value"].mean()
    assert rlcm["mean"].iloc[1] == pytest.approx(expected)
    diffusion = data[(data["reward"] == "hpsv2") & (data["method"] == "base-diffusion")]
    assert diffusion["steps"].tolist() == [1, 2, 10] and diffusion["seeds"].isna().all()


def test_generalisation_compares_with_the_own_base_on_each_prompt_set(wide):
    data = draw("generalisation", *wide).data.set_index(["reward", "method", "prompts"])
    here, there = (data.loc[("hpsv2", "rocm-none", name)] for name in ("validation", "rings"))
    assert here["change"] == pytest.approx(0.05, abs=0.005) and here["n"] == 40
    assert there["change"] == pytest.approx(0.025, abs=0.005) and there["n"] == 24
    assert here["low"] > there["high"] > there["low"] > 0 and here["seeds"] == 2


def test_a_method_looks_the_same_in_every_run_and_its_sweep_alike():
    assert _style.look("rocm-kl") == _style.look("rocm-kl--beta-0.01")
    looks = list(_style._LOOK.values())
    assert len({colour for colour, _ in looks}) == len({m for _, m in looks}) == len(looks)
    assert _style.look("rocm-renyi") == _style.look("rocm-renyi") not in looks


def test_only_figures_with_data_are_offered():
    assert figures(make_wide_config()) == list(FIGURES)
    assert figures(make_config()) == [*FIGURES[:5]]
    assert figures(make_config(metrics=["hpsv2", "aesthetic"])) == [
        "samples",
        "training",
        "squared_distance",
    ]
    assert figures(make_config(monitor={"prompts": 0})) == ["samples", "squared_distance"]
    assert "squared_distance" not in figures(make_config(methods={"rocm-none": {}}))


@pytest.mark.parametrize("name", FIGURES)
def test_editing_one_figure_leaves_the_others_fingerprints_alone(name):
    own = set(module_closure("rocm_core.render", f"rocm_core.figures.{name}"))
    others = {f"rocm_core.figures.{other}" for other in FIGURES if other != name}
    assert not own & (others | {"rocm_core.report", "rocm_core.tables.table1"})


def test_the_registries_are_light_to_import():
    code = (
        "import sys, rocm_core.figures, rocm_core.tables;"
        "print([m for m in ('numpy', 'pandas', 'matplotlib', 'PIL', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
