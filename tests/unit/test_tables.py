import csv
import json
import re

import pandas as pd
import pytest
from markupsafe import escape
from synthetic import SPREADS, make_config, make_wide_config, write_results

from rocm_core.analysis import Results, evaluators, lead_of_choice
from rocm_core.commands.render import render
from rocm_core.divergences import load_divergence
from rocm_core.errors import UserError
from rocm_core.grid import offered
from rocm_core.plugins import names
from rocm_core.provenance import Layout, write_csv
from rocm_core.tables import costs, sweep, table1, table2, table3, table4
from rocm_core.tables._table import Block, Cell, Table

EFFECTS = {
    ("hpsv2", "rocm-none"): {"hpsv2": 0.9, "gold": -0.3},
    ("hpsv2", "rocm-kl"): {"hpsv2": 0.05, "gold": 0.2},
    ("aesthetic", "rocm-js"): {"hpsv2": 0.1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make_config()
    write_results(root, config, EFFECTS)
    return config, root


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    root = tmp_path_factory.mktemp("wide")
    config = make_wide_config()
    effects = {
        ("hpsv2", "rlcm"): {"hpsv2": 0.03, "gold": 0.2, "slope": 0.002},
        ("hpsv2", "ddpo"): {"hpsv2": 0.02, "gold": -0.2, "slope": 0.0005},
        ("hpsv2", "rocm-kl"): {"slope": 0.01},
        ("hpsv2", "rocm-none"): {"slope": 0.0001},
        ("hpsv2", "rlcm--inference_steps-8"): {"hpsv2": 0.05},
        ("hpsv2", "rocm-kl--beta-0.5"): {"hpsv2": 0.01, "gold": 0.1},
        ("hpsv2", "rocm-kl--beta-0.005"): {"hpsv2": 0.1, "gold": -0.3},
    }
    write_results(root, config, effects)
    return config, root


def entry(data, reward, method, metric):
    keys = zip(("reward", "method", "metric"), (reward, method, metric), strict=True)
    for column, value in keys:
        data = data[data[column] == value]
    (row,) = data.to_dict("records")
    return row


def test_a_model_is_never_evaluated_on_its_training_reward(finished):
    data = table1.make(Results(*finished)).data
    own = data[(data["metric"] == data["reward"]) & ~data["method"].str.startswith("base-")]
    assert len(own) == 6 and set(own["status"]) == {"trained"}
    assert own[["mean", "low", "high", "n"]].isna().all(axis=None)
    assert not own["best"].any()
    assert set(data.drop(own.index)["status"]) == {"measured"}


def test_numbers_are_those_of_the_score_files(finished):
    config, root = finished
    path = root / "samples/hpsv2/rocm-kl/seed-0/validation/steps-4/scores.csv"
    scores = pd.read_csv(path).query("metric == 'gold'")["value"]
    row = entry(table1.make(Results(config, root)).data, "hpsv2", "rocm-kl", "gold")
    half = 1.959963984540054 * scores.std() / 40**0.5
    assert (row["mean"], row["n"], row["seeds"]) == (pytest.approx(scores.mean()), 40, 1)
    assert (row["low"], row["high"]) == (
        pytest.approx(scores.mean() - half),
        pytest.approx(scores.mean() + half),
    )


def test_the_planted_winner_of_each_held_out_column_is_bold(finished):
    table = table1.make(Results(*finished))
    assert entry(table.data, "hpsv2", "rocm-kl", "gold")["best"]
    assert entry(table.data, "aesthetic", "rocm-js", "hpsv2")["best"]
    # one winner in each of the three contested columns of the two blocks
    assert table.data["best"].sum() == 6
    blocks = {block.heading: block for block in table.blocks}
    (kl,) = [r for r in blocks["Trained on HPSv2"].rows if r[0].text == "ROCM, KL"]
    assert table.header[-1] == "Gold judge" and kl[-1].bold
    assert kl[table.header.index("HPSv2")] == Cell("trained", muted=True)


def test_table1_says_what_training_changed_beside_the_means(finished):
    results = Results(*finished)
    table = table1.make(results)
    row = entry(table.data, "hpsv2", "rocm-kl", "gold")
    change = results.change("hpsv2", "rocm-kl", "gold")
    assert (row["change"], row["change_low"], row["change_high"]) == pytest.approx(
        (change.mean, change.low, change.high)
    )
    base = entry(table.data, "hpsv2", "base-consistency", "gold")
    assert row["change"] == pytest.approx(row["mean"] - base["mean"]) and base["change"] != 0
    assert row["change_high"] - row["change_low"] < (row["high"] - row["low"]) / 2  # paired
    assert pd.isna(base["change"])
    assert pd.isna(entry(table.data, "hpsv2", "rocm-kl", "hpsv2")["change"])
    headings = [block.heading for block in table.blocks]
    assert headings[:2] == ["Trained on HPSv2", "Change by training on HPSv2"]
    (kl,) = [r for r in table.blocks[1].rows if r[0].text == "ROCM, KL"]
    assert kl[-1].text == change.change(3) and kl[table.header.index("HPSv2")].text == "trained"
    assert [r[0].text for r in table.blocks[1].rows] == [
        results.label(m) for m in results.methods("hpsv2")
    ]


def test_the_interval_of_a_change_is_over_training_seeds_too(tmp_path):
    config = make_config(seeds=[0, 1, 2])
    write_results(tmp_path, config, EFFECTS)
    for seed, moved in enumerate((-0.2, 0.0, 0.2)):
        folder = tmp_path / f"samples/hpsv2/rocm-kl/seed-{seed}/validation/steps-4"
        scores = pd.read_csv(folder / "scores.csv")
        scores.loc[scores["metric"] == "gold", "value"] += moved
        scores.to_csv(folder / "scores.csv", index=False)
    results = Results(config, tmp_path)
    change, other = (results.change("hpsv2", m, "gold") for m in ("rocm-kl", "rocm-none"))
    assert change.half_width > 4.30 * 0.2 / 3**0.5 > 5 * other.half_width  # t of two degrees
    assert "over 40 validation prompts and 3 training seeds" in table1.make(results).caption
    one = table1.make(Results(make_config(), tmp_path))
    assert "over 40 validation prompts of one training" in one.caption


def test_all_three_formats_show_the_same_entries(finished, tmp_path):
    config, root = finished
    render("table", "table1", config, root, tmp_path / "table1")
    markdown = (tmp_path / "table1.md").read_text()
    latex = (tmp_path / "table1.tex").read_text()
    data = pd.read_csv(tmp_path / "table1.csv")
    assert {"mean", "low", "high", "n"} <= set(data.columns)
    row = entry(data, "hpsv2", "rocm-kl", "gold")
    shown = re.findall(r"\| ROCM, KL \|.*\| \*\*([\d.]+) ± [\d.]+\*\* \|", markdown)[0]
    assert float(shown) == pytest.approx(row["mean"], abs=1e-3)
    assert rf"\textbf{{{shown} $\pm$" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\") and "&" in line]
    assert {line.count("&") for line in rows} == {4}
    assert latex.count(r"\midrule") == 4 and latex.count("{") == latex.count("}")


def test_rendering_twice_gives_the_same_bytes(finished, tmp_path):
    for name in ("a", "b"):
        render("table", "table1", *finished, tmp_path / name / "table1")
    for suffix in (".md", ".tex", ".csv"):
        first, second = ((tmp_path / n / "table1").with_suffix(suffix) for n in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_missing_cell_is_a_marked_gap_when_partial_and_an_error_otherwise(tmp_path):
    config = make_config()
    write_results(tmp_path, config, EFFECTS)
    (tmp_path / "samples/hpsv2/rocm-kl/seed-0/validation/steps-4/scores.csv").unlink()
    with pytest.raises(UserError, match="rocm-kl/seed-0"):
        table1.make(Results(config, tmp_path))
    table = table1.make(Results(make_config(partial=True), tmp_path))
    assert entry(table.data, "hpsv2", "rocm-kl", "gold")["status"] == "missing"
    assert '"missing"' in table.caption and "| *missing* |" in table.markdown()


HOSTILE = r"a|b*c_d`e<f>[g](h)$i$&amp;~j^k{l}\m%#--" + '"n"\n[o]: p'


def test_text_is_text_in_every_format(tmp_path):
    rows = [
        [Cell(HOSTILE), Cell("χ² ± 1_0", bold=True)],
        [Cell("[x] y"), Cell(HOSTILE, muted=True)],
    ]
    data = pd.DataFrame({"a": [HOSTILE], "b": [-0.3]})
    table = Table(HOSTILE, HOSTILE, [HOSTILE, "b"], [Block(HOSTILE, rows)], data)
    plain = HOSTILE.replace("\n", " ")
    # Every one of Markdown's marks but brackets that begin no link is escaped.
    escaped = re.sub(r"([\\`*_<>|$&~]|\](?=[(:]))", r"\\\1", plain)
    markdown = table.markdown()
    assert markdown.count(escaped) == 6 and markdown.count("\n") == 10
    assert f"| *{escaped}* |" in markdown and r"| **χ² ± 1\_0** |" in markdown
    html = table.html()
    assert html.count(str(escape(HOSTILE))) == 4 and "<f>" not in html and "&amp;amp;" in html
    latex = table.latex("t")
    spelled = (
        r"a\textbar{}b*c\_d\textasciigrave{}e\textless{}f\textgreater{}[g](h)\$i\$\&amp;"
        r"\textasciitilde{}j\textasciicircum{}k\{l\}\textbackslash{}m\%\#-{}-''n'' [o]: p"
    )
    assert latex.count(spelled) == 6
    assert r"{\$}" not in latex and "\n{}[x] y & " in latex
    assert r"\textbf{$\chi$$^2$ $\pm$ 1\_0}" in latex
    table.save(tmp_path / "t")
    assert pd.read_csv(tmp_path / "t.csv").equals(data)


def test_a_latex_file_says_first_what_it_needs(wide, tmp_path):
    for name in offered("tables", wide[0]):
        render("table", name, *wide, tmp_path / name)
        first, rest = (tmp_path / f"{name}.tex").read_text().split("\n", 1)
        assert first.startswith(r"% Needs \usepackage{booktabs,amsmath,amssymb}")
        assert rest.startswith(r"\begin{table*}") and rest.isascii()  # which every LaTeX knows


@pytest.mark.parametrize(
    "text", ["=1+1", "+1 cat", "-2+3", "@SUM(A1)", "\t=1", "\n=1", " =1", "＝1", "＠SUM(A1)"]
)
def test_no_text_is_a_formula_in_a_spreadsheet_and_numbers_stay_numbers(text, tmp_path):
    numbers = [-0.3, "-0.3", "+1e-4", -5, "-inf", None, float("nan"), True, "a-b", "x\r1"]
    columns = [text, *map(str, range(len(numbers) - 1))]
    write_csv(tmp_path / "a.csv", columns, [numbers, [text, *numbers[1:]]])
    with open(tmp_path / "a.csv", newline="") as file:
        header, first, second = csv.reader(file)
    assert header[0] == second[0] == f"'{text}"
    assert first == ["-0.3", "-0.3", "+1e-4", "-5", "-inf", "", "", "True", "a-b", "x 1"]


def test_an_unknown_table_is_refused_by_name(finished, tmp_path):
    with pytest.raises(UserError, match="no rocm_core/tables/table9.py .* did you mean table"):
        render("table", "table9", *finished, tmp_path / "x")
    with pytest.raises(UserError, match="no rocm_core/tables/_table.py"):
        render("table", "_table", *finished, tmp_path / "x")


def test_only_tables_with_data_are_offered():
    assert offered("tables", make_config()) == ["table1", "table3", "readouts"]
    every = ["table1", "table2", "table3", "table4", "costs", "sweep", "readouts", "gradients"]
    assert offered("tables", make_wide_config()) == every and set(every) == set(names("tables"))
    shown = ["table1", "table3", "table4", "costs", "readouts", "gradients"]
    assert offered("tables", make_wide_config(sweeps=[])) == shown
    betas = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}
    shown = ["table1", "table2", "table3", "readouts"]
    assert offered("tables", make_config(sweeps=[betas])) == shown
    assert offered("tables", make_config(methods={"rocm-none": {}})) == ["table1", "readouts"]


def test_table1_holds_the_baselines_and_both_bases(wide):
    data = table1.make(Results(*wide)).data
    expected = [
        "base-consistency",
        "base-diffusion",
        "rocm-none",
        "rocm-kl",
        "rlcm",
        "ddpo",
        "dpok",
    ]
    assert list(dict.fromkeys(data["method"])) == expected


def test_table4_of_a_scorer_that_is_also_trained_on_counts_no_others(tmp_path):
    config = make_config(scorers={"hpsv2": None}, rewards=["hpsv2"], methods={"rlcm": {}})
    write_results(tmp_path, config)
    table = table4.make(Results(config, tmp_path))
    assert {*table.data["status"]} == {"measured", "trained"}
    assert "other differences" not in table.markdown()


def test_table4_compares_each_baseline_with_its_own_base(wide):
    config, root = wide
    # The diffusion base is another model: a difference taken to the consistency base would show.
    for steps in (1, 2, 10):
        path = root / f"samples/base-diffusion/validation/steps-{steps}/scores.csv"
        scores = pd.read_csv(path)
        if (scores["value"] > -5).all():
            scores["value"] -= 10
            scores.to_csv(path, index=False)
    for path in root.glob("samples/*/d*po*/seed-*/validation/steps-10/scores.csv"):
        scores = pd.read_csv(path)
        if (scores["value"] > -5).all():
            scores["value"] -= 10
            scores.to_csv(path, index=False)
    table = table4.make(Results(config, root))
    data = table.data
    assert set(data["method"]) == {"base-consistency", "base-diffusion", "rlcm", "ddpo", "dpok"}
    rises, falls = (entry(data, "hpsv2", method, "gold") for method in ("rlcm", "ddpo"))
    assert rises["mean"] == pytest.approx(0.2, abs=0.02) and rises["direction"] == "rises"
    assert falls["mean"] == pytest.approx(-0.2, abs=0.02) and falls["direction"] == "falls"
    assert falls["low"] < falls["mean"] < falls["high"] < 0 and falls["seeds"] == 2
    assert entry(data, "hpsv2", "ddpo", "hpsv2")["status"] == "trained"
    assert "↓ |" in table.markdown() and r"$\downarrow$" in table.latex("table4")
    counts = data[(data["status"] == "measured") & data["method"].isin(["ddpo", "dpok"])]
    down = (counts["direction"] == "falls").sum()
    assert (
        f"on the diffusion policy, {(counts['direction'] == 'rises').sum()} rise, {down} fall"
        in (table.caption)
    )


def test_costs_say_when_each_method_reached_what_the_slowest_comes_to(wide):
    table = costs.make(Results(*wide))
    data = table.data
    of_reward = data[data["reward"] == "hpsv2"].set_index("method")
    # ddpo is the slowest algorithm: it rises without noise, over its last seven steps to 0.3 +
    # 0.0005 · 37; seeds differ by 0.002. ROCM without a divergence is slower, but ROCM is as fast
    # as with KL.
    assert of_reward.loc["rocm-none", ["reward_queries", "training_seconds"]].isna().all()
    (shown,) = (row for row in table.blocks[0].rows if row[0].text == "ROCM, no divergence")
    assert [cell.text for cell in shown[3:]] == ["–"] * 3
    assert of_reward["goal"].unique() == pytest.approx(0.3 + 0.0005 * 37 + 0.001)
    assert of_reward.loc["ddpo", "reward_queries"] in (37 * 8, 38 * 8)  # the goal is itself rounded
    # 0.002 n reaches 0.0185 at n = 9.25, rocm-kl with 0.01 at 1.85.
    assert of_reward.loc["rlcm", "reward_queries"] == 10 * 8
    assert of_reward.loc["rocm-kl", "reward_queries"] == 2 * 8
    assert of_reward.loc["rlcm", "nfe"] == 10 * 8 * 4
    assert of_reward.loc["rlcm", "training_seconds"] == 10 * 0.5
    assert of_reward.loc["rlcm", "deviation"] == pytest.approx(0.002 / 2**0.5)


def test_the_sweep_lists_every_try_beside_the_method_as_it_stands(wide):
    table = sweep.make(Results(*wide))
    block = next(b for b in table.blocks if b.heading == "RLCM on HPSv2")
    settings = [row[0].text for row in block.rows]
    tried = ["inference_steps 4, as configured", "inference_steps 2", "inference_steps 8"]
    assert settings == tried
    assert [row[1].bold for row in block.rows] == [False, False, True]
    tried = entry(table.data, "hpsv2", "rlcm--inference_steps-8", "hpsv2")
    assert tried["change"] == pytest.approx(0.05, abs=0.005) and tried["low"] > 0


def test_trials_of_a_search_stand_aside_for_trainings_that_a_sweep_gave_a_setting(tmp_path):
    search = {"learning_rate": {"search": [1e-4, 3e-4], "iterations": 10}}
    methods = {"rocm-none": search, "rocm-kl": {"beta": 0.05} | search}
    tricks = [
        {"methods": ["rocm-none"], "setting": "truncate", "values": [1]},
        {"methods": ["rocm-none"], "setting": "stop_input", "values": [True]},
    ]
    config = make_config(methods=methods, sweeps=tricks)
    better = {"aesthetic": SPREADS["aesthetic"], "clipscore": SPREADS["clipscore"]}
    preferred = "hpsv2", "rocm-kl--learning_rate-0.0003--iterations-10"
    write_results(tmp_path, config, {preferred: better})
    blocks = sweep.make(Results(config, tmp_path)).blocks
    settings = {block.heading: [row[0].text for row in block.rows] for block in blocks}
    whole = ["as configured", "truncate 1", "stop_input true"]
    trials = [f"learning_rate {rate}, iterations 10" for rate in (0.0001, 0.0003)]
    assert settings["ROCM, no divergence on HPSv2"] == whole
    assert settings["ROCM, KL on HPSv2"] == trials
    choice = Layout(tmp_path).choice("hpsv2", "rocm-kl")
    choice.parent.mkdir(parents=True)
    tries = [{"learning_rate": r, "merit": r, "learned": True} for r in (1e-4, 3e-4)]
    made = {"chosen": {"learning_rate": 3e-4}, "metrics": ["aesthetic", "clipscore"]}
    results = Results(config, tmp_path)

    def marked(edge, *tries):
        choice.write_text(json.dumps(made | {"edge": edge, "trials": tries}))
        table = sweep.make(results)
        assert "Chosen: " in table.caption and "†: " in table.caption
        (own,) = [block for block in table.blocks if block.heading == "ROCM, KL on HPSv2"]
        return [row[0].text for row in own.rows]

    first, told = marked(["learning_rate"], *tries)
    lead = lead_of_choice(results, "hpsv2", "rocm-kl")
    assert lead.n == 20 and lead.mean == pytest.approx(1.0, abs=0.3) and lead.low > 0
    assert (first, told) == (trials[0], f"{trials[1]}, chosen† ({lead.change(unit=' SD')})")
    alone = tries[0] | {"learned": False}, tries[1]
    assert marked([], *alone) == [trials[0], f"{trials[1]}, chosen"]


def test_the_betas_of_a_sweep_are_listed_where_table_2_has_those_of_a_search(tmp_path):
    methods = {"rocm-none": {}, "rocm-kl": {"beta": {"search": [0.05, 0.5], "iterations": 10}}}
    swept = [{"methods": ["rocm-kl"], "setting": "beta", "values": [0, 5.0]}]
    config = make_config(methods=methods, sweeps=swept, rewards=["hpsv2"])
    write_results(tmp_path, config)
    (block,) = sweep.make(Results(config, tmp_path)).blocks
    tried = ["beta 0", "beta 5"]
    assert [row[0].text for row in block.rows] == ["beta to be searched, as configured", *tried]
    choice = Layout(tmp_path).choice("hpsv2", "rocm-kl")
    choice.parent.mkdir(parents=True)
    choice.write_text('{"chosen": {"beta": 0.5}}')
    (block,) = sweep.make(Results(config, tmp_path)).blocks
    assert [row[0].text for row in block.rows] == ["beta 0.5, as configured", *tried]
    assert "\n| KL | 5" not in table2.make(Results(config, tmp_path)).markdown()


def test_table_2_finds_the_planted_best_and_keeps_the_sweep_behind_it(wide):
    table = table2.make(Results(*wide))
    data = table.data[table.data["reward"] == "hpsv2"].set_index("beta")
    assert data.index.tolist() == [0.5, 0.05, 0.005] and set(data["divergence"]) == {"rocm-kl"}
    assert data["best"].tolist() == [True, False, False]
    assert data.loc[0.5, "judged"] == pytest.approx(0.1, abs=0.02)
    assert data.loc[0.005, "trained"] == pytest.approx(0.1, abs=0.005)
    assert data.loc[0.005, "judged_high"] < 0 < data.loc[0.5, "judged_low"]
    best, every = table.blocks[:2]
    assert [row[1].text for row in best.rows] == ["0.5†"]  # a larger one may be better still
    assert [row[1].text for row in every.rows] == ["0.5†", "0.05", "0.005"]
    assert [row[1].bold for row in every.rows] == [True, False, False]
    assert "beta 0.5" not in sweep.make(Results(*wide)).markdown()


def test_without_a_gold_judge_table_2_weighs_the_held_out_metrics_alike(tmp_path):
    swept = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}
    metrics = ["hpsv2", "aesthetic", "clipscore"]
    config = make_config(sweeps=[swept], rewards=["hpsv2"], metrics=metrics)
    # Three standard deviations of clipscore up, one of the aesthetic score down.
    write_results(
        tmp_path, config, {("hpsv2", "rocm-kl--beta-0.5"): {"clipscore": 0.09, "aesthetic": -0.4}}
    )
    data = table2.make(Results(config, tmp_path)).data.set_index("beta")
    assert data.loc[0.5, "judged"] == pytest.approx(1.0, abs=0.25) and data.loc[0.5, "best"]


def test_a_version_of_the_trained_scorer_judges_nothing(tmp_path):
    metrics = ["hpsv2", "hpsv2_0", "aesthetic"]
    scorers = dict.fromkeys([*metrics, "gold"])
    config = make_config(rewards=["hpsv2"], metrics=metrics, scorers=scorers)
    write_results(tmp_path, config)
    results = Results(config, tmp_path)
    assert evaluators(results, "hpsv2") == ["aesthetic"]
    entries = table1.make(results).data.set_index("metric")
    assert not entries.loc[["hpsv2", "hpsv2_0"], "best"].any()
    assert entries.loc["aesthetic", "best"].any()


def test_a_steered_beta_is_shown_as_what_it_came_to(tmp_path):
    swept = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}
    methods = {"rocm-kl": {"beta": {"target": 0.01, "start": 1.0}}}
    grid = {"sweeps": [swept], "rewards": ["hpsv2"], "methods": methods, "seeds": [0, 1]}
    config = make_config(**grid)
    write_results(tmp_path, config)
    assert sorted(table2.make(Results(config, tmp_path)).data["beta"]) == [0.07, 0.5]
    partial = make_config(**grid, partial=True)
    for path in tmp_path.glob("*/hpsv2/rocm-kl/seed-1/**/*.*"):
        path.unlink()
    assert sorted(table2.make(Results(partial, tmp_path)).data["beta"]) == [0.07, 0.5]
    for path in tmp_path.glob("*/hpsv2/rocm-kl/**/*.*"):
        path.unlink()
    every = table2.make(Results(partial, tmp_path)).blocks[1]
    assert [cell.text for cell in every.rows[-1]] == ["ROCM, KL", "unknown", "missing", "missing"]


def test_table_3_holds_every_divergence_with_its_formula_and_true_values():
    table = table3.make(Results(make_config(), "nowhere"))
    assert set(table.data["divergence"]) == set(names("divergences"))
    values = table.data.set_index(["divergence", "distance"])["value"]
    # Squared Hellinger and JS at d = 0.1, 1, 3 and 8, to ten digits.
    hellinger = (0.00124921908, 0.1175030974, 0.6753475326, 0.9996645374)
    js = (0.00124844010, 0.1114214822, 0.5267773065, 0.6930536455)
    assert values["hellinger"].tolist() == pytest.approx(hellinger, rel=1e-8)
    assert values["js"].tolist() == pytest.approx(js, rel=1e-8)
    assert values["kl"].tolist() == pytest.approx([0.005, 0.5, 4.5, 32])
    rows = table.blocks[0].rows
    assert rows[0][0].text == "KL, reverse KL" and rows[0][1].text == "d²/2"
    for formula in (load_divergence(name).formula for name in names("divergences")):
        assert f"${formula}$" in table.markdown() and f"${formula}$" in table.latex("table3")
    assert not any(set(row[1].text) & set("\\{}$") for row in rows)
    assert table.html().count("<tr>") == 1 + len(rows)


@pytest.mark.parametrize(
    ("name", "method"),
    [("table2", "rocm-kl--beta-0.5"), ("table4", "rlcm"), ("costs", "rlcm"), ("sweep", "rlcm")],
)
def test_a_missing_model_is_a_marked_gap_when_partial_and_an_error_otherwise(
    name, method, tmp_path
):
    config = make_wide_config()
    write_results(tmp_path, config)
    for path in tmp_path.glob(f"*/hpsv2/{method}/seed-*/**/*.csv"):
        path.unlink()
    with pytest.raises(UserError, match=f"hpsv2/{method}/seed-0"):
        render("table", name, config, tmp_path, tmp_path / name)
    render("table", name, make_wide_config(partial=True), tmp_path, tmp_path / name)
    assert "*missing*" in (tmp_path / f"{name}.md").read_text()
