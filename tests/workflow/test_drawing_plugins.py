"""A table and a figure of one's own: one file each, and nothing else."""

import re
import subprocess
import sys
import tomllib

import pytest
from checkout import ROOT, Checkout, copy_checkout

FIGURE = '''"""How many cells each reward has."""

import pandas as pd

from rocm_core.figures import _style as style

TITLE = "Cells by reward"
NEEDS = ("rewards",)
READS = ("manifests", "prompts")


@style.styled
def make(results):
    counts = pd.Series([source.reward for source in results.trained]).value_counts()
    figure, ((panel,),) = style.panels(1, 1)
    panel.bar(counts.index, counts)
    return style.Drawing(figure, counts.reset_index(), TITLE, f"{len(results.manifests)} of them.")
'''
TABLE = '''"""What sweeps chose."""

import pandas as pd

from rocm_core.tables._table import Block, Cell, Table

TITLE = "What sweeps chose"
READS = ()
PLACE = 1.5


def make(results):
    rows = [[Cell(source.family), Cell(str(len(source.swept)))] for source in results.trained]
    data = pd.DataFrame({"cells": [len(rows)]})
    return Table(TITLE, "Caption.", ["Family", "Swept"], [Block("All", rows)], data)
'''
REWARDS = "rewards=[hpsv2, aesthetic]"  # the figure needs several
DRAW = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from synthetic import write_results
from rocm_core.commands.render import render
from rocm_core.grid import load_config

metrics = ["gold", "hpsv2", "aesthetic"]
rewards = ["hpsv2", "aesthetic"]
values = {"partial": True, "metrics": metrics, "rewards": rewards}
config = load_config("config/demo.yaml", values)
write_results(config.root, config)
render("table", "what_was_swept", config, config.root, config.root / "tables/what_was_swept")
render("figure", "cells_by_reward", config, config.root, config.root / "figures/cells_by_reward")
render("claims", "claims", config, config.root, config.root / "claims")
render("report", "report", config, config.root, config.root / "report")
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = copy_checkout(tmp_path_factory.mktemp("extended"))
    (checkout.path / "rocm_core/figures/cells_by_reward.py").write_text(FIGURE)
    (checkout.path / "rocm_core/tables/what_was_swept.py").write_text(TABLE)
    return checkout


def test_a_new_table_and_a_new_figure_are_planned_with_what_they_read(extended: Checkout) -> None:
    config = ("--configfile", "config/demo.yaml", "--config", REWARDS)
    planned = extended.snakemake("-n", "all", "--profile", "slurm", *config)
    assert planned.returncode == 0, planned.stderr
    # In the one Slurm job of all that is drawn.
    (group,) = re.findall(r"Group job render .*?(?=\n\[|\Z)", planned.stdout, re.S)
    jobs = dict(re.findall(r"Job \d+: (.*)\n +Reason: (.*)", group))
    reason = jobs["Rendering the figure cells_by_reward"]
    assert "prompts/validation.jsonl" in reason and "rocm-kl/seed-0/manifest.json" in reason
    assert "scores.csv" not in reason
    assert "updated by another job" not in jobs["Rendering the table what_was_swept"]
    report = jobs["Assembling the report"]
    assert "figures/cells_by_reward.png" in report and "tables/what_was_swept.csv" in report


def test_a_new_table_and_a_new_figure_are_drawn_and_in_the_report(extended: Checkout) -> None:
    subprocess.run([sys.executable, "-c", DRAW], cwd=extended.path, check=True)
    results = extended.path / "results/demo"
    assert (results / "tables/what_was_swept.tex").exists()
    assert (results / "figures/cells_by_reward.pdf").exists()
    page = (results / "report.html").read_text()
    titles = re.findall(r'<h3 class="title" id="drawing-[^"]+">([^<]+)', page)[:3]
    expected = ("Table 1: Held-out scores", "What sweeps chose", "Table 3: Divergences")
    assert all(map(str.startswith, titles, expected))
    assert page.index("Cells by reward.</b> 10 of them.") > page.index('id="plots"')


def test_a_word_that_nothing_is_read_by_ends_the_planning_in_one_sentence(
    extended: Checkout,
) -> None:
    extended.edit("rocm_core/figures/cells_by_reward.py", '"prompts"', '"promts"')
    shown = extended.snakemake("-n", "--config", REWARDS)
    assert shown.returncode != 0
    last = shown.stderr.strip().splitlines()[-1]
    assert last.startswith("error: figures/cells_by_reward.py: READS can be scores, ")
    assert last.endswith("not 'promts'")


def test_the_page_and_its_style_are_packaged() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = {
        path.relative_to(ROOT / "/".join(package.split(".")))
        for package, patterns in packaged["package-data"].items()
        for pattern in patterns
        for path in (ROOT / "/".join(package.split("."))).glob(pattern)
    }
    others = {
        path
        for path in (ROOT / "rocm_core").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {path.name for path in files} == {path.name for path in others}
