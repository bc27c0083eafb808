"""What runs again after which change: nothing that the change cannot have altered.

The grid has 2 rewards (hpsv2, aesthetic) and 3 methods (none, kl, js), so 6 cells and 1 base.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import Checkout

JUDGED = dict.fromkeys(("table1", "readouts", "claims", "report"), 1)
AFTER_SCORES = JUDGED | dict.fromkeys(("figure6", "training", "gold_vs_reward", "gold_vs_kl"), 1)
AFTER_IMAGES = JUDGED | dict.fromkeys(("figure1", "figure2", "samples"), 1)
IMAGES = {"evaluate_images": 7}  # and their scores and read-outs; the base's included
LORA, PROMPTS = "hpsv2/rocm-kl/seed-0", "prompts/train.jsonl"
OF_THE_CODE = {"table3": 1, "divergences": 1}  # they show no results
DRAWN = AFTER_SCORES | AFTER_IMAGES | {"figure5": 1, "squared_distance": 1}


def cells(count: int) -> dict[str, int]:
    """The jobs of `count` cells that are trained again, and what follows."""
    each = ("train_cell", "evaluate_images", "evaluate_snapshots")
    return dict.fromkeys(each, count) | DRAWN


OF_ONE_LORA = dict.fromkeys(IMAGES, 1) | AFTER_IMAGES


def test_a_new_checkout_runs_everything_once(finished: Checkout) -> None:
    everything = {"make_prompts": 2} | cells(6) | IMAGES
    assert finished.jobs("--forceall") == everything | OF_THE_CODE


def test_nothing_changed_runs_nothing(finished: Checkout) -> None:
    assert finished.jobs() == {}


def test_touching_every_source_runs_nothing(finished: Checkout) -> None:
    for file in finished.sources():
        os.utime(file)
    assert finished.jobs() == {}


@pytest.fixture(scope="module")
def true_size(complete: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The complete copy with a LoRA and prompts larger than what Snakemake hashes by itself."""
    checkout = complete.copied(tmp_path_factory.mktemp("true_size") / "checkout")
    for name in (f"cells/{LORA}/lora.safetensors", f"cells/{LORA}/history.csv", PROMPTS):
        with open(checkout.path / "results/matrix" / name, "ab") as file:
            file.write(bytes(1_500_000))
    touch = ("--cores", "1", "--touch", "--forceall", "all", "--configfile", "config/matrix.yaml")
    assert checkout.snakemake(*touch).returncode == 0
    return checkout


@pytest.mark.faults  # for its time
def test_touching_results_of_true_size_runs_nothing(true_size: Checkout) -> None:
    results = true_size.path / "results/matrix"
    for folder in ("figures", "samples", "cells", "prompts"):  # the inputs last
        for file in sorted((results / folder).rglob("*")):
            os.utime(file)
    assert true_size.jobs() == {}
    assert true_size.jobs("--profile", "slurm") == true_size.jobs("--profile", "local") == {}


def test_a_plain_copy_of_results_of_true_size_runs_nothing(
    true_size: Checkout, tmp_path: Path
) -> None:
    """As `cp -r` makes it, which keeps no time."""
    copy = shutil.copytree(true_size.path, tmp_path / "copy", copy_function=shutil.copy)
    assert true_size.at(copy).jobs() == {}


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        (f"cells/{LORA}/lora.safetensors", OF_ONE_LORA),
        (PROMPTS, cells(6) | IMAGES | {"make_prompts": 1}),
    ],
)
def test_an_edited_result_of_true_size_is_used_again(
    true_size: Checkout, tmp_path: Path, name: str, jobs: dict[str, int]
) -> None:
    checkout = true_size.copied(tmp_path / "checkout")
    with open(checkout.path / "results/matrix" / name, "ab") as file:
        file.write(b" ")
    assert checkout.jobs() == jobs


def test_comments_docstrings_and_formatting_run_nothing(finished: Checkout) -> None:
    for name in ("training/trainer", "divergences/js", "rewards/hpsv2"):
        path = finished.path / f"rocm_core/{name}.py"
        said = path.read_text().replace('"""', '"""Said otherwise: ', 1)
        path.write_text(said + "\n\n\n# A remark.\n")
    assert finished.jobs() == {}


def test_resources_run_nothing(finished: Checkout) -> None:
    with open(finished.path / "config/matrix.yaml", "a") as file:
        file.write("resources: {threads: 2, memory_gib: 9, runtime_minutes: 99}\n")
    assert finished.jobs() == {}


def test_editing_a_figure_redraws_it(finished: Checkout) -> None:
    finished.add_statement("rocm_core/figures/gold_vs_kl.py")
    assert finished.jobs() == {"gold_vs_kl": 1, "report": 1}


def test_editing_the_style_of_figures_redraws_them_all(finished: Checkout) -> None:
    finished.add_statement("rocm_core/figures/_style.py")
    figures = (DRAWN | OF_THE_CODE).keys() - {"table1", "table3", "readouts", "claims"}
    assert finished.jobs() == dict.fromkeys(figures, 1)


def test_editing_a_scorer_that_only_measures_trains_nothing(finished: Checkout) -> None:
    finished.add_statement("rocm_core/rewards/blipscore.py")
    assert finished.jobs() == IMAGES | {"evaluate_snapshots": 6} | AFTER_SCORES | AFTER_IMAGES


def test_editing_a_scorer_that_trains_retrains_its_cells_only(finished: Checkout) -> None:
    finished.add_statement("rocm_core/rewards/aesthetic.py")
    assert finished.jobs() == cells(3) | IMAGES | {"evaluate_snapshots": 6}


@pytest.mark.faults  # for its time
def test_editing_the_direct_update_rule_retrains_every_rocm_cell(finished: Checkout) -> None:
    finished.add_statement("rocm_core/algorithms/direct.py")
    assert finished.jobs() == cells(6)


def test_editing_a_divergence_retrains_its_cells_only(finished: Checkout) -> None:
    finished.add_statement("rocm_core/divergences/js.py")
    assert finished.jobs() == cells(2) | OF_THE_CODE


def test_editing_generation_trains_nothing(finished: Checkout) -> None:
    finished.add_statement("workflow/scripts/generate.py")
    assert finished.jobs() == IMAGES | AFTER_IMAGES


def test_changing_the_setting_of_one_cell_retrains_it(finished: Checkout) -> None:
    finished.edit(
        "config/matrix.yaml", "aesthetic/rocm-js: {beta: 0.25}", "aesthetic/rocm-js: {beta: 0.3}"
    )
    assert finished.jobs() == cells(1) | OF_THE_CODE


def test_a_new_cell_is_the_only_one_trained(finished: Checkout) -> None:
    with open(finished.path / "config/matrix.yaml", "a") as file:
        file.write(
            "sweeps: [{rewards: [hpsv2], methods: [rocm-kl], setting: beta, values: [0.5]}]\n"
        )
    assert finished.jobs() == cells(1) | OF_THE_CODE | {"table2": 1, "figure4": 1}


def test_other_weights_of_the_base_retrain_everything(finished: Checkout) -> None:
    (finished.path / "weights/consistency/model.safetensors").write_text("others")
    assert finished.jobs() == cells(6) | IMAGES


@pytest.mark.faults  # for its time
def test_other_weights_of_a_scorer_that_only_measures_train_nothing(finished: Checkout) -> None:
    (finished.path / "weights/blipscore/model.safetensors").write_text("others")
    assert finished.jobs() == IMAGES | {"evaluate_snapshots": 6} | AFTER_SCORES | AFTER_IMAGES


@pytest.mark.faults  # for its time
def test_another_line_in_the_prompt_list_trains_again(finished: Checkout) -> None:
    with open(finished.path / "lists/train.txt", "a") as file:
        file.write("a green triangle\n")
    everything = cells(6) | IMAGES | {"make_prompts": 2}
    assert finished.jobs() == everything


def test_forcing_one_cell_reruns_it_and_what_follows(finished: Checkout) -> None:
    lora = "results/matrix/cells/hpsv2/rocm-kl/seed-0/lora.safetensors"
    assert finished.jobs("-R", lora) == cells(1)


def test_a_deleted_lora_is_trained_again_alone(finished: Checkout) -> None:
    (finished.path / "results/matrix/cells/hpsv2/rocm-kl/seed-0/lora.safetensors").unlink()
    assert finished.jobs() == cells(1)


def test_partial_results_are_drawn_without_training(finished: Checkout) -> None:
    (finished.path / "results/matrix/cells/hpsv2/rocm-kl/seed-0/lora.safetensors").unlink()
    (finished.path / "results/matrix/samples/hpsv2/rocm-kl/seed-0/snapshots/scores.csv").unlink()
    finished.add_statement("rocm_core/algorithms/direct.py")
    assert finished.jobs("--config", "partial=true") == DRAWN | OF_THE_CODE


def test_a_deleted_figure_is_the_only_one_that_is_drawn_again(finished: Checkout) -> None:
    (finished.path / "results/matrix/figures/figure5.png").unlink()
    assert finished.jobs(targets=["figures"]) == {"figure5": 1}


@pytest.mark.faults  # for its time
def test_another_order_of_the_methods_is_drawn_and_trains_nothing(finished: Checkout) -> None:
    finished.edit("config/matrix.yaml", "  rocm-none:\n", "")
    finished.edit("config/matrix.yaml", "cells:\n", "  rocm-none:\ncells:\n")
    assert finished.jobs() == DRAWN | OF_THE_CODE


@pytest.mark.faults  # for its time
def test_a_study_is_drawn_when_there_are_votes_and_redraws_nothing_else(finished: Checkout) -> None:
    pair = "[hpsv2/rocm-kl/seed-0, hpsv2/rocm-js/seed-0]"
    with open(finished.path / "config/matrix.yaml", "a") as file:
        file.write(f"study: {{comparisons: [{pair}], pairs: 4}}\n")
    assert finished.jobs() == {"claims": 1, "report": 1}
    (finished.path / "results/matrix/study").mkdir()
    (finished.path / "results/matrix/study/votes.jsonl").touch()
    assert finished.jobs() == dict.fromkeys(
        ("study", "study_results", "figure3", "claims", "report"), 1
    )


def test_every_job_shows_snakemake_its_settings_and_code(complete: Checkout) -> None:
    records = [json.loads(f.read_text()) for f in (complete.path / ".snakemake/metadata").iterdir()]
    assert {record["rule"] for record in records} == {
        *("make_prompts", "train_cell", "evaluate_snapshots", *IMAGES),
        *DRAWN,
        *OF_THE_CODE,
    }
    for record in records:
        params = [value.strip("'") for value in record["params"]]
        assert any(re.fullmatch("[0-9a-f]{64}", value) for value in params), record["rule"]
        assert any(value.startswith("{") for value in params), record["rule"]


# The edits below change results. Each is made in the function where it is decided, wherever that
# function stands; `verify` names what they make stale (test_accepting.py).
@pytest.mark.faults  # for its time
def test_cleaning_prompts_in_another_way_makes_everything_again(finished: Checkout) -> None:
    finished.edit_function("clean", '"NFC"', '"NFKC"')
    assert finished.jobs() == cells(6) | IMAGES | {"make_prompts": 2} | OF_THE_CODE


@pytest.mark.faults  # for its time
def test_another_version_of_a_scorer_is_drawn_where_metrics_are_held_out(
    finished: Checkout,
) -> None:
    finished.edit(
        "rocm_core/grid/held_out.py", "VERSIONS = {", 'VERSIONS = {"blipscore": "hpsv2", '
    )
    assert finished.jobs() == JUDGED | {"figure6": 1}


@pytest.mark.faults  # for its time
def test_a_fact_of_a_scorer_is_drawn_wherever_facts_may_be_read(finished: Checkout) -> None:
    finished.edit(
        "rocm_core/rewards/blipscore.py", "DIFFERENTIABLE = True", "DIFFERENTIABLE = False"
    )
    assert finished.jobs() == IMAGES | {"evaluate_snapshots": 6} | DRAWN | OF_THE_CODE


@pytest.mark.faults  # for its time
def test_dropping_the_last_snapshot_trains_again(finished: Checkout) -> None:
    finished.edit_function("snapshot_steps", ", last}", "}")
    assert finished.jobs() == cells(6)


def edit_code_and_settings(checkout: Checkout) -> None:
    checkout.add_statement("rocm_core/divergences/kl.py")
    checkout.edit("config/matrix.yaml", "beta: 0.25", "beta: 0.3")  # of JS


@pytest.mark.parametrize(
    "edit", [pytest.param(lambda checkout: None, marks=pytest.mark.faults), edit_code_and_settings]
)
def test_the_command_plans_what_its_fork_plans(
    finished: Checkout, edit: Callable[[Checkout], None]
) -> None:
    """The other tests ask forks of one process; this one types `snakemake`."""
    edit(finished)
    assert Checkout(finished.path).jobs() == finished.jobs()
