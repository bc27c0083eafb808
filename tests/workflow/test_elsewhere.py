"""The workflow runs from any folder: results and the user's own files are there, what belongs to
the source is found beside it, and nothing is written there."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, count_jobs

from rocm_core.grid import job_code, load_config, make_grid
from rocm_core.provenance import write_manifest

OWN = """\
name: own
policies:
  consistency: {model: resources/shapes/consistency, steps: 2, guidance_scale: 1.0}
scorers: {aesthetic: resources/shapes/scorers/aesthetic}
prompts:
  train: {source: lists/own.txt}
  validation: {source: envs/trl.txt} # a list that only the checkout has
rewards: [aesthetic]
methods: {rocm-none: }
"""
MODULE = """\
configfile: "config.yaml"


module rocm:
    snakefile:
        "{source}/Snakefile"
    config:
        config["rocm"]


use rule * from rocm as rocm_*


rule mine:
    default_target: True
    input:
        "results/own/prompts/train.jsonl",
    output:
        "mine.txt",
    shell:
        "wc -l < {{input}} > {{output}}"
"""


def test_results_move_away_from_the_checkout_and_nothing_runs_again(
    complete: Checkout, tmp_path: Path
) -> None:
    """The weights stay; and where they are is part of no job."""
    for name in ("results", ".snakemake", "lists"):
        shutil.copytree(complete.path / name, tmp_path / name)
    shutil.copy(complete.path / "config/matrix.yaml", tmp_path)
    command = ["-n", "all", "-s", f"{complete.path}/Snakefile", "--configfile", "matrix.yaml"]
    done = complete.at(tmp_path).snakemake(*command)
    assert done.returncode == 0, done.stderr
    assert count_jobs(done.stdout + done.stderr) == {}


def test_it_is_a_module_of_another_workflow(pristine: Checkout, tmp_path: Path) -> None:
    """With a job of its own and of ours, whose lists are here and there."""
    (tmp_path / "Snakefile").write_text(MODULE.format(source=pristine.path))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"rocm": yaml.safe_load(OWN)}))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/own.txt").write_text("a cat\na dog\n")
    before = source_files(pristine)
    done = pristine.at(tmp_path).snakemake("-n", "rocm_all")
    assert done.returncode == 0, done.stderr
    jobs = count_jobs(done.stdout + done.stderr)
    assert jobs["rocm_train_cell"] == jobs["rocm_report"] == 1
    done = pristine.at(tmp_path).snakemake(
        "mine", "rocm_prompts", "--cores", "1", "--show-failed-logs"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.txt").read_text().split() == ["2"]
    made = (tmp_path / "results/own/prompts/validation.jsonl").read_text()
    assert (pristine.path / "envs/trl.txt").read_text().splitlines()[-1].strip() in made
    assert source_files(pristine) == before


def source_files(checkout: Checkout) -> dict[Path, int]:
    """The files of a checkout with their times, but what Python keeps there if it may."""
    files = (path for path in checkout.path.rglob("*") if "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in files}


# What snakedeploy 0.17.1 writes, but for the place of the clone.
DEPLOYED = """\
from snakemake.utils import min_version

min_version("6.10.0")

configfile: "config/config.yml"

module rocm:
    snakefile:
        "{source}/workflow/Snakefile"
    config:
        config

use rule * from rocm
"""


def test_it_is_deployed_as_the_catalogue_does(
    pristine: Checkout, plan: Callable[..., str], tmp_path: Path
) -> None:
    """Its configuration is copied, its rules are those of a clone."""
    shutil.copytree(pristine.path / "config", tmp_path / "config")
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(DEPLOYED.format(source=pristine.path))
    done = pristine.at(tmp_path).snakemake("-n", "all")
    assert done.returncode == 0, done.stderr
    assert count_jobs(done.stdout + done.stderr) == count_jobs(plan(config="config/demo.yaml"))


def test_results_that_come_without_snakemakes_records_are_checked(
    complete: Checkout, tmp_path: Path
) -> None:
    """Snakemake alone would say of them that there is nothing to be done."""
    for name in ("results", "lists"):
        shutil.copytree(complete.path / name, tmp_path / name)
    text = (complete.path / "config/matrix.yaml").read_text()
    (tmp_path / "matrix.yaml").write_text(text)
    manifest = tmp_path / "results/matrix/cells/hpsv2/rocm-js/seed-0/manifest.json"
    config = load_config(tmp_path / "matrix.yaml")
    (cell,) = (c for c in make_grid(config) if c.name == "hpsv2/rocm-js/seed-0")
    command = ["-n", "all", "-s", f"{complete.path}/Snakefile", "--configfile", "matrix.yaml"]

    def plan(code: str, settings: dict) -> str:
        write_manifest(manifest, settings=settings, code=code)
        done = complete.at(tmp_path).snakemake(*command)
        said = done.stdout + done.stderr
        return said if done.returncode else f"planned {count_jobs(said)} {said}"

    code, settings = job_code("train", cell.settings), cell.settings.to_dict()
    fresh = plan(code, settings)
    # What shows the manifest, which is a new one, is drawn again.
    assert fresh.startswith("planned {'figure5': 1, 'report': 1} ")
    assert "--touch all` takes it in" in fresh
    for stale in (plan("of an edited divergence", settings), plan(code, settings | {"beta": 0.4})):
        assert "results/matrix came without Snakemake's records of it" in stale
        assert f"{manifest.relative_to(tmp_path)} were made by other code or settings" in stale


@pytest.mark.parametrize(
    "after_run",
    [[], pytest.param(["all", "--cores", "1", "--report-after-run"], marks=pytest.mark.faults)],
)
def test_snakemake_reports_on_a_finished_run(
    complete: Checkout, tmp_path: Path, after_run: list[str]
) -> None:
    """With our report, the claims, every table and figure, and the runtime of their jobs."""
    report = tmp_path / "report.zip"
    command = [*after_run, "--report", str(report), "--configfile", "config/matrix.yaml"]
    done = complete.snakemake(*command)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(report) as archive:
        pages = [name for name in archive.namelist() if name.endswith("report.html")]
        assert len(pages) == 2  # Snakemake's, and ours as one of the results
        shown = archive.read(min(pages, key=len)).decode()
    results = complete.path / "results/matrix"
    drawn = [*results.glob("tables/*.md"), *results.glob("figures/*.png")]
    assert len(drawn) > 5
    for file in [results / "report.html", results / "claims.md", *drawn]:
        assert str(file.relative_to(complete.path)) in shown
