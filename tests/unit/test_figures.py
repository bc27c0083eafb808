import functools
import itertools
import json
import shutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image
from synthetic import make_config, make_wide_config, write_results, write_votes

from rocm_core.analysis import Results
from rocm_core.commands.render import render
from rocm_core.errors import UserError
from rocm_core.figures import _style
from rocm_core.grid import load_config, make_grid, offered
from rocm_core.plugins import facts, names
from rocm_core.prompts import Prompt, write_prompts
from rocm_core.provenance import Layout, module_closure

FIGURES = names("figures")
EFFECTS = {
    ("hpsv2", "rocm-none"): {"hpsv2": 0.05, "gold": -0.3, "squared_distance": 400.0},
    ("hpsv2", "rocm-kl"): {"hpsv2": 0.02, "gold": 0.1, "squared_distance": 10.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make_config()
    write_results(root, config, EFFECTS, size=8)
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
    write_results(root, config, EFFECTS | WIDE, size=8)
    return config, root


@pytest.fixture
def having(name, finished, wide):
    """Results that have the data of the figure `name`."""
    return finished if name in offered("figures", finished[0]) else wide


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
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays the figure out
    monkeypatch.setattr(Text, "draw", record)
    figure.draw_without_rendering()
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


def test_unlike_trainings_are_shown_over_nfe(tmp_path):
    """An iteration of RLCM takes 16 times as long here as one of ROCM."""
    methods = {"rocm-none": {"inference_steps": 2}, "rlcm": {"inference_steps": 32}}
    config = make_config(methods=methods, rewards=["hpsv2"], seeds=[0, 1], partial=True)
    write_results(tmp_path, config, EFFECTS)
    for history in tmp_path.glob("cells/hpsv2/*/seed-0/history.csv"):
        history.unlink()  # that of the other seed says the same
    drawing = draw("training", config, tmp_path)
    for method, each in (("rocm-none", 16), ("rlcm", 256)):
        own = drawing.data[drawing.data["method"] == method]
        assert own["nfe"].tolist() == (each * own["step"]).tolist() and own["nfe"].max() > 0
    for panel in drawing.figure.axes:
        ends = [line.get_xdata()[-1] for line in panel.lines]
        assert ends == [16 * 40, 256 * 40] and panel.get_xlabel() == "NFE"
        assert panel.get_xscale() == "symlog"
    assert "linear from 0 to 100 and logarithmic beyond" in drawing.caption


def test_trainings_of_one_kind_are_shown_over_steps(finished):
    drawing = draw("training", *finished)
    assert {panel.get_xlabel() for panel in drawing.figure.axes[-2:]} == {"training step"}
    assert [line.get_xdata()[-1] for line in drawing.figure.axes[0].lines] == [40] * 3
    assert drawing.data["nfe"].max() == 40 * 32


def test_kl_is_half_the_squared_distance(finished):
    data = draw("gold_vs_kl", *finished).data
    assert last(data, "rocm-none", "kl")["mean"] == pytest.approx(200)
    assert last(data, "rocm-kl", "kl")["mean"] == pytest.approx(5)


def test_each_generator_has_a_panel_in_which_what_is_alike_looks_alike(tmp_path):
    policies = {
        name: {"model": name, "chain": chain, "steps": 4, "guidance_scale": 1.0}
        for name, chain in (("consistency", "lcm"), ("flow", "flow"))
    }
    methods = {"rocm-none": {}, "rocm-kl": {"beta": 0.05}, "direct-flow-kl": {"beta": 0.05}}
    config = make_config(policies=policies, methods=methods)
    write_results(tmp_path, config)
    figure = draw("gold_vs_reward", config, tmp_path).figure
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert [*panels] == [f"{r}, {p}" for r in ("HPSv2", "Aesthetic") for p in policies]
    colours = {
        title: [line.get_color() for line in axes.lines if len(line.get_xdata()) > 2]
        for title, axes in panels.items()
    }
    none, kl = (_style.look(method)[0] for method in ("rocm-none", "rocm-kl"))
    assert colours["HPSv2, consistency"] == [none, kl] and colours["HPSv2, flow"] == [kl]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["base", "no divergence", "KL"]


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
    methods = {"rocm-kl": {"beta": 0.05}, "rocm-js": {"beta": 0.5, "iterations": 4}}
    short = make_config(training={"iterations": 1000}, rewards=["hpsv2"], methods=methods)
    write_results(tmp_path / "short", short)
    data = draw("squared_distance", short, tmp_path / "short").data
    steps = data.groupby(["method", "transition"])["step"].agg(list)
    assert steps["rocm-js", 2] == [1, 2, 3, 4] and len(steps["rocm-kl", 2]) == 200


def test_samples_show_the_same_prompts_for_the_base_and_every_method(finished):
    of_hpsv2, of_others = draw("figure2", *finished), draw("samples", *finished)
    for drawing, reward, count in ((of_hpsv2, "hpsv2", 6), (of_others, "aesthetic", 4)):
        shown = drawing.data.groupby(["reward", "method"])["prompt_id"].agg(list)
        assert len(shown) == 4 and set(drawing.data["reward"]) == {reward}
        assert all(ids == [f"p{i:04d}" for i in range(count)] for ids in shown)
        assert len(drawing.figure.axes) == len(drawing.data) == 4 * count
        assert (finished[1] / drawing.data["file"].iloc[0]).is_file()


def test_figure_1_shows_kl_on_hpsv2_and_without_them_what_comes_first(finished, tmp_path):
    data = draw("figure1", *finished).data
    assert len(data) == 12 and data["file"].notna().all()
    assert set(zip(data["reward"], data["method"], strict=True)) == {("hpsv2", "rocm-kl")}
    other = make_config(rewards=["aesthetic"], methods={"rocm-none": {}, "rocm-js": {"beta": 1}})
    write_results(tmp_path, other, size=8)
    data = draw("figure1", other, tmp_path).data
    assert set(zip(data["reward"], data["method"], strict=True)) == {("aesthetic", "rocm-js")}


def test_figure_3_draws_what_the_raters_said_and_names_what_nobody_voted_on(wide, tmp_path):
    config, root = wide
    drawing = draw("figure3", config, root)
    assert len(drawing.figure.axes) == 2 and len(drawing.data) == 6
    write_votes(tmp_path, config.study.comparisons[:1])
    texts = [t.get_text() for t in draw("figure3", config, tmp_path).figure.findobj(Text)]
    assert "missing: no votes yet" in texts
    assert "aesthetic/rocm-kl/seed-0 against aesthetic/rlcm/seed-0" in texts
    best = [["hpsv2/rocm-best/seed-0", "hpsv2/rlcm/seed-0"]]
    chosen = {best[0][0]: {"model": "hpsv2/rocm-kl/seed-0"}}
    config = make_wide_config(study={"comparisons": best, "pairs": 20})
    path = tmp_path / "study/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chosen": chosen}))
    drawing = draw("figure3", config, tmp_path)
    assert "ROCM, KL" in {text.get_text() for text in drawing.figure.findobj(Text)}
    assert "held-out scorers preferred on one half" in drawing.caption
    assert "no people" not in drawing.caption
    path.write_text(json.dumps(json.loads(path.read_text()) | {"simulated": True}))
    assert "simulated raters" in (caption := draw("figure3", config, tmp_path).caption)
    assert "no people" in caption
    path.unlink()
    with pytest.raises(UserError, match="aggregate the votes first"):
        draw("figure3", config, tmp_path)


def test_figure_4_recovers_the_planted_preferences_at_each_beta(tmp_path):
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5, 0.005]}
    config = make_config(sweeps=[sweep], seeds=[0, 1], rewards=["hpsv2"])
    hacked = {"hpsv2": 0.05, "gold": -0.2}
    effects = {("hpsv2", "rocm-none"): hacked, ("hpsv2", "rocm-kl--beta-0.005"): {"hpsv2": 0.05}}
    write_results(tmp_path, config, effects)
    data = draw("figure4", config, tmp_path).data
    rates = data.pivot(index="beta", columns="preference_of", values="win_rate")
    assert rates.index.tolist() == [0, 0.005, 0.05, 0.5]
    assert rates.loc[0, "reward model"] == rates.loc[0.005, "reward model"] == 1
    assert rates.loc[0, "judge"] < 0.1 and abs(rates.loc[0.5, "judge"] - 0.5) < 0.2
    assert set(data["n"]) == {40} and set(data["seeds"]) == {2}
    base = pd.read_csv(tmp_path / "samples/base-consistency/validation/steps-4/scores.csv")
    wins = []
    for seed in (0, 1):
        folder = tmp_path / f"samples/hpsv2/rocm-kl/seed-{seed}/validation/steps-4"
        both = pd.read_csv(folder / "scores.csv").merge(base, on=["prompt_id", "metric"])
        gold = both[both["metric"] == "gold"]
        wins.append((gold["value_x"] > gold["value_y"]).mean())
    assert rates.loc[0.05, "judge"] == pytest.approx(np.mean(wins))


def test_figure_4_asks_the_held_out_metrics_where_there_is_no_gold_judge(tmp_path):
    sweep = {"methods": ["rocm-js"], "setting": "beta", "values": [0.1]}
    metrics = ["hpsv2", "aesthetic", "clipscore"]
    config = make_config(sweeps=[sweep], rewards=["hpsv2"], metrics=metrics)
    won = {"aesthetic": 9.0, "clipscore": -9.0}
    write_results(tmp_path, config, {("hpsv2", "rocm-js"): won})
    data = draw("figure4", config, tmp_path).data
    judged = data[(data["method"] == "rocm-js") & (data["preference_of"] == "judge")]
    assert judged["win_rate"].tolist() == [0.5]  # one always, the other never


def test_figure_4_shows_each_reward_by_a_divergence_that_is_swept_there(tmp_path):
    sweep = {"setting": "beta", "values": [0.1]}
    swept = {"rocm-fisher": "aesthetic", "rocm-js": "hpsv2"}
    config = make_config(
        methods={"rocm-none": {}, "rocm-js": {"beta": 0.5}, "rocm-fisher": {"beta": 5.0}},
        sweeps=[sweep | {"methods": [m], "rewards": [reward]} for m, reward in swept.items()],
    )
    write_results(tmp_path, config)
    drawing = draw("figure4", config, tmp_path)
    methods = drawing.data.groupby("reward")["method"].unique().map(set)
    for family, reward in swept.items():
        assert methods[reward] == {family, f"{family}--beta-0.1", "rocm-none"}
    titles = [panel.get_title() for panel in drawing.figure.axes]
    assert titles == ["HPSv2, JS", "Aesthetic, Fisher"]
    assert "ROCM with the divergence of a panel" in drawing.caption


def test_figure_4_has_a_line_of_the_raters_who_compared_the_sweep_with_the_base(tmp_path):
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}
    config = make_config(sweeps=[sweep], rewards=["hpsv2"])
    write_results(tmp_path, config)
    models = ["hpsv2/rocm-kl--beta-0.5/seed-0", "hpsv2/rocm-js/seed-0"]
    write_votes(tmp_path, [(model, "base-consistency") for model in models])
    drawing = draw("figure4", config, tmp_path)
    said = drawing.data[drawing.data["preference_of"] == "raters"]
    assert said[["beta", "win_rate", "low", "high", "n"]].values.tolist() == [
        [0.5, 0.65, 0.52, 0.77, 20]
    ]
    write_votes(tmp_path, [("base-consistency", model) for model in models])
    data = draw("figure4", config, tmp_path).data
    said = data.loc[data["preference_of"] == "raters", ["win_rate", "low", "high"]]
    assert said.values.tolist() == [pytest.approx([0.35, 0.23, 0.48])]
    assert "20 pairs of the user study" in drawing.caption
    assert [text.get_text() for text in drawing.figure.legends[0].texts][-1] == "raters"


def test_figure_5_runs_over_twenty_iterations_of_all_seeds(wide):
    config, root = wide
    data = draw("figure5", config, root).data
    rlcm = data[(data["reward"] == "hpsv2") & (data["method"] == "rlcm")].set_index("iteration")
    folders = [root / f"cells/hpsv2/rlcm/seed-{seed}" for seed in (0, 1)]
    rewards = np.stack([pd.read_csv(f / "history.csv")["reward"].to_numpy() for f in folders])
    for at in (1, 7, 20, 40):
        window = rewards[:, max(0, at - 20) : at]
        assert rlcm["mean"][at] == pytest.approx(window.mean())
        assert rlcm["deviation"][at] == pytest.approx(window.std())
    assert rlcm["training_seconds"][40] == 20 and rlcm["seeds"][40] == 2


def test_figure_5_counts_the_hours_of_every_gpu_and_keeps_the_papers_letters(tmp_path):
    config = make_config(methods={"rocm-none": {}})
    write_results(tmp_path, config)
    for path in tmp_path.glob("cells/*/*/*/manifest.json"):
        about = json.loads(path.read_text()) | {"processes": 720, "device": "NVIDIA A6000"}
        path.write_text(json.dumps(about))
    drawing = draw("figure5", config, tmp_path)
    assert drawing.data["training_seconds"].max() == 20 * 720  # of each
    titles = [panel.get_title() for panel in drawing.figure.axes]
    assert titles == ["B  Trained on Aesthetic", "D  Trained on HPSv2"]
    assert drawing.figure.axes[0].get_xlabel() == "training hours, GPU"
    (line,) = [x for x in drawing.figure.axes[0].get_lines() if len(x.get_xdata()) == 40]
    assert line.get_xdata()[-1] == pytest.approx(4)


def test_figure_5_also_draws_unfinished_trainings_of_a_partial_run(tmp_path):
    """As far as they have come, in seconds of all of their processes."""
    config = make_config(partial=True, resources={"gpus": 2})
    write_results(tmp_path, config)
    cell = tmp_path / "cells/hpsv2/rocm-kl/seed-0"
    run = Layout(tmp_path).run("hpsv2/rocm-kl/seed-0").history
    run.parent.mkdir(parents=True)
    rows = (cell / "history.csv").read_text().splitlines(keepends=True)
    run.write_text("".join(rows[:13]))
    shutil.rmtree(cell)
    data = draw("figure5", config, tmp_path).data
    curve = data[(data["reward"] == "hpsv2") & (data["method"] == "rocm-kl")]
    whole = data[(data["reward"] == "hpsv2") & (data["method"] == "rocm-js")]
    assert curve["iteration"].max() == 12 and whole["iteration"].max() == 40
    # Finished ones say in their manifests how many processes they had: here none, so one.
    seconds = whole[whole["iteration"] == 12]["training_seconds"].item()
    assert curve["training_seconds"].max() == pytest.approx(2 * seconds)


def test_figure_6_shows_every_stage_and_the_snapshot_that_the_judge_likes_best(tmp_path):
    config = make_config(methods={"rocm-none": {}, "rocm-kl": {"beta": 1}, "rlcm": {}})
    effects = {
        ("aesthetic", "rocm-none"): {"gold": -2.0},
        ("aesthetic", "rocm-kl"): {"gold": 2.0},
    }
    write_results(tmp_path, config, effects, size=8)
    data = draw("figure6", config, tmp_path).data
    assert set(data["reward"]) == {"aesthetic"} and set(data["method"]) == {"rocm-none", "rocm-kl"}
    along = data[data["part"] == "A"].groupby("method")["step"].agg(list)
    assert along["rocm-none"] == along["rocm-kl"] == [0, 10, 20, 30, 40]
    best = data[data["part"] == "B"].groupby("method")["step"].unique()
    assert best["rocm-none"].tolist() == [10] and best["rocm-kl"].tolist() == [40]
    scores = pd.read_csv(tmp_path / "samples/aesthetic/rocm-kl/seed-0/snapshots/scores.csv")
    gold = scores[(scores["metric"] == "gold") & (scores["step"] == 40)]["value"].mean()
    shown = data[(data["part"] == "B") & (data["method"] == "rocm-kl")]
    assert np.allclose(shown["verdict"], gold) and len(shown) == 3


def test_figure_6_shows_trainings_of_unlike_lengths_at_the_same_shares(tmp_path):
    methods = {
        "rocm-none": {"iterations": 20},
        "rocm-kl": {"beta": 1},
        "rocm-js": {"beta": 1, "snapshot_every": 8},
    }
    config = make_config(methods=methods, rewards=["aesthetic"])
    write_results(tmp_path, config, size=8)
    drawing = draw("figure6", config, tmp_path)
    data = drawing.data
    along = data[data["part"] == "A"].groupby("method")["step"].agg(list)
    assert along.to_dict() == {
        "rocm-none": [0, 10, 20],
        "rocm-kl": [0, 20, 40],
        "rocm-js": [0, 16, 40],
    }
    texts = [text.get_text() for text in drawing.figure.findobj(Text)]
    assert {"50% of the training", "100% of the training"} < {*texts}


def test_figure_6_prefers_models_trained_on_animals_and_shows_them_animals(tmp_path):
    prompts = {
        "train": {"source": "shapes", "count": 64},
        "validation": {"source": "shapes", "count": 40, "seed": 2},
        "animals": {"source": "shapes", "count": 12, "seed": 3},
    }
    methods = {"rocm-none": {}, "rocm-kl": {"beta": 1}}
    swept = {"methods": list(methods), "rewards": ["aesthetic"], "setting": "prompts"}
    sweeps = [swept | {"values": ["animals"]}]
    config = make_config(methods=methods, prompts=prompts, sweeps=sweeps, seeds=[0, 1])
    assert {c.evaluated_on for c in make_grid(config)} == {"validation", "animals"}
    write_results(tmp_path, config, size=8)
    animals = [Prompt(f"a{i}", f"animal {i}", "synthetic") for i in range(3)]
    write_prompts(tmp_path / "prompts/animals.jsonl", animals)
    for folder in tmp_path.glob("samples/aesthetic/*--prompts-animals/*/snapshots/step-*"):
        for i, picture in enumerate(sorted(folder.glob("*.png"))[:3]):
            picture.rename(folder / f"a{i}.png")
    drawing = draw("figure6", config, tmp_path)
    models = ["rocm-none--prompts-animals", "rocm-kl--prompts-animals"]
    assert list(drawing.data["method"].unique()) == models and set(drawing.data["seed"]) == {0}
    assert set(drawing.data["prompt_id"]) == {"a0", "a1", "a2"}
    assert "3 animals prompts" in drawing.caption


def test_divergences_are_drawn_with_their_true_values_and_slopes():
    data = draw("divergences", make_config(), "nowhere").data
    assert set(data["divergence"]) == set(names("divergences"))
    kl, hellinger = (data[data["divergence"] == name] for name in ("kl", "hellinger"))
    assert np.allclose(kl["value"], kl["squared_distance"] / 2) and np.allclose(kl["slope"], 0.5)
    x = hellinger["squared_distance"]
    assert np.allclose(hellinger["slope"], np.exp(-x / 8) / 8)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Results of a grid that lack whatever there is of one method, made once."""

    @functools.cache
    def lacking(make, method):
        root = tmp_path_factory.mktemp("lacking")
        write_results(root, make(), EFFECTS, size=8)
        for path in root.glob(f"*/*/{method}/seed-*/**/*"):
            if path.is_file():
                path.unlink()
        return root

    return lacking


# The other two show what raters said, and the code itself.
@pytest.mark.parametrize("name", [n for n in FIGURES if n not in ("figure3", "divergences")])
def test_a_missing_cell_is_marked_when_partial_and_an_error_otherwise(name, lacking):
    make, method = make_config, "rocm-kl"
    if name not in offered("figures", make()):
        make, method = make_wide_config, "rlcm"
    if name == "figure4":
        method = "rocm-kl--beta-0.5"
    root = lacking(make, method)
    with pytest.raises(UserError, match=f"{method}/seed-0"):
        draw(name, make(), root)
    drawing = draw(name, make(partial=True), root)
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
    assert (rlcm["nfe"], ddpo["nfe"]) == (8 * 4 * 40, 8 * 40 * 40)
    assert ddpo["training_seconds"] == 10 * rlcm["training_seconds"] == 200
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
    with pytest.raises(UserError, match="curves.csv .efficiency_overlay. is not a CSV file with"):
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


def test_a_method_looks_the_same_in_every_run_and_unlike_any_other():
    looks = list(_style._LOOK.values())
    assert len({colour for colour, _ in looks}) == len({m for _, m in looks}) == len(looks)
    assert _style.look("rocm-renyi") == _style.look("rocm-renyi") not in looks
    spare = [_style.spare_look(number) for number in range(80)]
    assert len(set(spare)) == 80 and not set(spare) & set(looks)
    assert len({colour for colour, _ in spare[:9]}) == 9


def test_the_methods_of_the_contest_look_and_read_apart():
    results = Results(load_config("config/contest.yaml"), "nowhere")
    methods = results.methods()
    assert len({_style.look(method) for method in methods}) == len(methods) == 6
    labels = [results.label(method) for method in methods]
    assert labels == [*("ROCM, no divergence", "ROCM, KL", "RLCM", "GRPO, KL", "REBEL", "hybrid")]


@pytest.mark.parametrize("letters", [10, 30, 90])
def test_a_legend_has_as_many_columns_as_there_is_room_for(letters):
    figure, _ = _style.panels(1, 1)
    entries = [Line2D([], [], label="m" * letters) for _ in range(7)]
    _style.legend(figure, entries)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent, whole = legend.get_window_extent(), figure.bbox
    inside = whole.x0 <= extent.x0 and extent.x1 <= whole.x1
    assert inside or (letters == 90 and legend._ncols == 1)
    assert whole.y0 <= extent.y0 and extent.y1 <= whole.y1


def test_settings_against_hacking_have_a_panel_beside_the_methods_without_them(tmp_path):
    """What `stop_by` stopped is where the images of the chosen snapshots are."""
    tricks = [("truncate", [1]), ("stop_by", ["aesthetic"]), ("beta", [0.5])]
    sweeps = [
        {"methods": ["rocm-kl" if name == "beta" else "rocm-none"], "setting": name, "values": one}
        for name, one in tricks
    ]
    config = make_config(sweeps=sweeps, rewards=["hpsv2"], seeds=[0, 1])
    stopped = {"hpsv2": 0.03, "gold": 0.2}
    write_results(tmp_path, config, EFFECTS | {("hpsv2", "rocm-none--stop_by-aesthetic"): stopped})
    drawing = draw("gold_vs_reward", config, tmp_path)
    methods, swept = drawing.figure.axes
    assert (methods.get_title(), swept.get_title()) == (
        "Trained on HPSv2",
        "Trained on HPSv2, swept",
    )
    assert methods.get_xlim() == swept.get_xlim() and methods.get_ylim() == swept.get_ylim()
    paths = [line.get_color() for line in swept.lines if len(line.get_xdata()) > 2]
    assert paths == [_style.GREY, _style.spare_look(0)[0]]
    folders = [f"samples/hpsv2/rocm-none--stop_by-aesthetic/seed-{seed}" for seed in (0, 1)]
    files = [tmp_path / folder / "validation/steps-4/scores.csv" for folder in folders]
    scores = pd.concat(map(pd.read_csv, files))
    first = scores[scores["prompt_id"].isin([f"p{i:04d}" for i in range(16)])]
    end = last(drawing.data, "rocm-none--stop_by-aesthetic", "gold")
    assert end["mean"] == pytest.approx(first[first["metric"] == "gold"]["value"].mean())
    assert end["n"] == 16 and end["change"] == pytest.approx(0.2, abs=0.05)
    above, below = drawing.figure.legends
    assert [text.get_text() for text in below.get_texts()] == [
        *("ROCM, no divergence", "truncate 1", "stop_by aesthetic")
    ]
    assert "rocm-kl--beta-0.5" not in set(drawing.data["method"])
    assert "a marker alone" in drawing.caption


def test_only_figures_with_data_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide = make_wide_config()
    assert set(offered("figures", wide)) == set(FIGURES) - {"figure3"}
    write_results(wide.root, wide)
    shown = offered("figures", wide)
    assert shown[:2] == ["gold_vs_reward", "training"] and set(shown) == set(FIGURES)
    assert shown[2:8] == [f"figure{n}" for n in range(1, 7)]
    places = [facts("figures", name)["PLACE"] for name in shown]
    assert places == sorted(set(places))
    monitored = ["figure6", "training", "gold_vs_reward", "gold_vs_kl"]
    always = ["figure1", "figure2", "figure5", "divergences", "samples", "squared_distance"]
    assert set(offered("figures", make_config())) == {*always, *monitored}
    without_gold = offered("figures", make_config(metrics=["hpsv2", "aesthetic"]))
    assert set(without_gold) == {*always, "figure6", "training"}
    assert set(offered("figures", make_config(snapshots={"prompts": 0}))) == set(always)
    unregularised = offered("figures", make_config(methods={"rocm-none": {}}, rewards=["hpsv2"]))
    assert set(unregularised) == {"figure2", "figure5", *monitored}
    # Snapshots of a sweep's cells alone are shown where these are.
    for setting, value, figures in (("beta", 0.5, set()), ("truncate", 1, {"gold_vs_reward"})):
        methods = ["rocm-kl" if setting == "beta" else "rocm-none"]
        sweep = {"methods": methods, "setting": setting, "values": [value]}
        sweeps = [sweep | {"cross": {"snapshot_every": [10]}}]
        config = make_config(training={"iterations": 40}, sweeps=sweeps)
        assert set(offered("figures", config)) & {*monitored} == figures


def test_a_need_that_does_not_exist_is_refused(monkeypatch):
    declared = {"NEEDS": ("reward",), "PLACE": 1}
    monkeypatch.setattr("rocm_core.grid.needs.facts", lambda kind, name: declared)
    with pytest.raises(UserError, match="no need 'reward'; did you mean rewards"):
        offered("figures", make_config())


@pytest.mark.parametrize("name", FIGURES)
def test_editing_one_figure_leaves_the_others_fingerprints_alone(name):
    own = set(module_closure("workflow/scripts/render.py", f"rocm_core.figures.{name}"))
    others = {f"rocm_core.figures.{other}" for other in FIGURES if other != name}
    assert not own & (others | {"rocm_core.report.build", "rocm_core.tables.table1"})


def test_what_can_be_drawn_is_known_without_heavy_imports():
    code = (
        "import sys, rocm_core.grid;"
        "print([m for m in ('numpy', 'pandas', 'matplotlib', 'PIL', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_logarithmic_axes_are_labelled_without_formulas(finished, wide):
    drawn = [draw(name, *finished) for name in ("divergences", "gold_vs_kl", "squared_distance")]
    labels = set()
    for drawing in [*drawn, draw("efficiency", *wide)]:
        FigureCanvasAgg(drawing.figure).draw()
        for axes in drawing.figure.axes:
            ticks = axes.get_xticklabels() + axes.get_yticklabels()
            labels |= {label.get_text() for label in ticks}
    assert {"10⁻²", "10⁰", "10²"} <= labels and not [label for label in labels if "$" in label]
