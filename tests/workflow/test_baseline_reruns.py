"""What runs again in a grid of several methods, policies, prompt sets and numbers of steps.

Cells: hpsv2 with ROCM (without divergence and with KL), RLCM and DDPO, JPEG compressibility with
RLCM and DDPO; swept ones with another horizon of RLCM on both, and another β on hpsv2; two bases.
All but the three swept cells have images of three kinds.
"""

import re
from pathlib import Path

import pytest
from checkout import Checkout, copy_checkout

CONFIG = "config/compared.yaml"
TEXT = """\
name: compared
world: shapes
policies:
  consistency: {model: weights/consistency, steps: 4, guidance_scale: 3.0}
  diffusion: {model: weights/diffusion, steps: 10, guidance_scale: 3.0}
scorers:
  hpsv2: weights/hpsv2
  jpeg_compressibility: null
prompts:
  train: {source: shapes, count: 8, seed: 1, without: [ring]}
  validation: {source: shapes, count: 8, seed: 2, without: [ring]}
  unseen: {source: shapes, count: 8, seed: 3, containing: [ring]}
rewards: [hpsv2, jpeg_compressibility]
methods:
  rocm-none:
  rocm-kl: {beta: 0.02}
  rlcm:
  ddpo:
cells:
  jpeg_compressibility/rocm-none:
  jpeg_compressibility/rocm-kl:
training: {iterations: 4}
sweeps:
  - {methods: [rlcm], setting: inference_steps, values: [2, 4]}
  - {rewards: [hpsv2], methods: [rocm-kl], setting: beta, values: [0.5]}
generation: {inference_steps: [null, 1]}
snapshots: {prompts: 0}
"""
TABLES = ("table1", "table2", "table4", "costs", "sweep", "readouts")
FIGURES = (
    *("figure1", "figure2", "figure4", "figure5", "samples", "efficiency", "squared_distance"),
    *("inference_time", "horizon", "generalisation"),
)
OF_THE_CODE = {"table3": 1, "divergences": 1}  # they show no results
DRAWN = dict.fromkeys((*TABLES, *FIGURES, "claims", "report"), 1)


def again(trained: int, sampled: int) -> dict[str, int]:
    """The jobs of so many trainings, and of images of so many kinds and sources."""
    return {"train_cell": trained, "evaluate_images": sampled} | DRAWN


def verified(checkout: Checkout) -> set[str]:
    """The manifests that `verify` calls missing or made by other code."""
    done = checkout.python("-m", "rocm_core.commands.verify", "--configfile", CONFIG)
    return set(
        re.findall(r"^results/compared/(\S+?):? (?:is missing|made by other)", done.stdout, re.M)
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, executable: str) -> Checkout:
    checkout = copy_checkout(tmp_path_factory.mktemp("compared"), executable)
    checkout.pretend(CONFIG, TEXT)
    return checkout


@pytest.fixture
def finished(compared: Checkout, tmp_path: Path) -> Checkout:
    """The complete copy, to be edited."""
    return compared.copied(tmp_path / "checkout")


def test_a_new_checkout_runs_everything_once(compared: Checkout) -> None:
    everything = again(9, 8 * 3 + 3) | {"make_prompts": 3} | OF_THE_CODE
    assert compared.jobs("--forceall", config=CONFIG) == everything
    assert compared.jobs(config=CONFIG) == {}


@pytest.mark.parametrize(
    ("file", "trained", "sampled"),
    [
        pytest.param("algorithms/ppo.py", 6, 4 * 3 + 2, marks=pytest.mark.faults),
        pytest.param("algorithms/direct.py", 3, 2 * 3 + 1, marks=pytest.mark.faults),
        pytest.param(  # a metric, too
            "rewards/jpeg_compressibility.py", 3, 8 * 3 + 3, marks=pytest.mark.faults
        ),
        ("policies/chains/ddim.py", 2, 3 * 3),
    ],
)
def test_editing_a_module_retrains_the_cells_that_use_it(
    finished: Checkout, file: str, trained: int, sampled: int
) -> None:
    finished.add_statement(f"rocm_core/{file}")
    assert finished.jobs(config=CONFIG) == again(trained, sampled)


def test_another_number_of_inference_steps_makes_its_images_only(finished: Checkout) -> None:
    finished.edit(CONFIG, "inference_steps: [null, 1]", "inference_steps: [null, 1, 2]")
    assert finished.jobs(config=CONFIG) == {"evaluate_images": 8} | DRAWN | OF_THE_CODE


def test_another_prompt_set_to_judge_on_trains_nothing(finished: Checkout) -> None:
    finished.edit(
        CONFIG,
        "rewards: [hpsv2, jpeg",
        "  crosses: {source: shapes, count: 4}\nrewards: [hpsv2, jpeg",
    )
    expected = {"make_prompts": 1, "evaluate_images": 8} | DRAWN | OF_THE_CODE
    assert finished.jobs(config=CONFIG) == expected


@pytest.mark.faults  # for its time
def test_editing_how_costs_are_reckoned_draws_what_shows_them(finished: Checkout) -> None:
    finished.add_statement("rocm_core/analysis/efficiency.py")
    shown = dict.fromkeys(("efficiency", "horizon", "costs", "claims", "report"), 1)
    assert finished.jobs(config=CONFIG) == shown


@pytest.mark.faults  # for its time
def test_other_steps_of_a_swept_cell_make_its_images(finished: Checkout) -> None:
    finished.edit_function(
        "sample_sets", '[("validation", steps[0])]', '[("validation", steps[-1])]'
    )
    assert finished.jobs(config=CONFIG) == {"evaluate_images": 3} | DRAWN | OF_THE_CODE
    stale = verified(finished)
    assert "samples/hpsv2/rocm-kl--beta-0.5/seed-0/validation/steps-1/scores.manifest.json" in stale
    assert {"tables/table2.manifest.json", "report.manifest.json"} <= stale


@pytest.mark.faults  # for its time
def test_other_tries_of_beta_are_drawn_where_they_are_shown(finished: Checkout) -> None:
    finished.edit_function("beta_tries", "> 1", ">= 2")  # there are still tries to show
    shown = dict.fromkeys(("claims", "table2", "sweep", "figure4", "report"), 1)
    assert finished.jobs(config=CONFIG) == shown
    stale = verified(finished)
    assert {"tables/table2.manifest.json", "figures/figure4.manifest.json"} <= stale
    assert not any(file.startswith(("cells/", "samples/", "prompts/")) for file in stale)
