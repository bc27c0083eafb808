"""What runs again in a grid of several methods, policies, prompt sets and numbers of steps.

Cells: hpsv2 with ROCM, RLCM and DDPO, JPEG compressibility with RLCM and DDPO, and RLCM at another
horizon on both; two bases. All but the two swept cells have images of three kinds.
"""

import shutil
import time
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
  rlcm:
  ddpo:
cells:
  jpeg_compressibility/rocm-none:
training: {iterations: 4}
sweeps:
  - {methods: [rlcm], setting: inference_steps, values: [2, 4]}
generation: {inference_steps: [null, 1]}
monitor: {prompts: 0}
"""
TABLES = ("table1", "table4", "costs", "sweep", "readouts")
FIGURES = (
    *("figure2", "figure5", "samples", "efficiency"),
    *("inference_time", "horizon", "generalisation"),
)
DRAWN = dict.fromkeys((*TABLES, *FIGURES, "claims", "report"), 1)


def again(trained: int, sampled: int, bases: int = 0) -> dict[str, int]:
    """The jobs of so many trainings, and of images of so many kinds and sources; of each source,
    so many `bases` included, one kind is measured."""
    made = {"train_cell": trained, "generate_images": sampled, "score_images": sampled}
    return made | {"measure_images": trained + bases} | DRAWN


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = copy_checkout(tmp_path_factory.mktemp("compared"))
    checkout.pretend(CONFIG, TEXT)
    return checkout


@pytest.fixture
def finished(compared: Checkout, tmp_path: Path) -> Checkout:
    """The complete copy, to be edited."""
    shutil.copytree(compared.path, tmp_path / "checkout", symlinks=True)
    time.sleep(0.01)  # an edit is later than everything copied
    return Checkout(tmp_path / "checkout")


def test_a_new_checkout_runs_everything_once(compared: Checkout) -> None:
    everything = again(7, 7 * 3 + 2, 2) | {"make_prompts": 3}
    assert compared.jobs("--forceall", config=CONFIG) == everything
    assert compared.jobs(config=CONFIG) == {}


@pytest.mark.parametrize(
    ("file", "trained", "sampled", "bases"),
    [
        ("algorithms/ppo.py", 6, 4 * 3 + 2, 0),
        ("algorithms/direct.py", 1, 3, 0),
        ("rewards/jpeg_compressibility.py", 3, 2 * 3 + 1, 0),
        ("policies/diffusion.py", 2, 3 * 3, 1),
    ],
)
def test_editing_a_module_retrains_the_cells_that_use_it(
    finished: Checkout, file: str, trained: int, sampled: int, bases: int
) -> None:
    finished.add_statement(f"rocm_core/{file}")
    expected = again(trained, sampled, bases)
    if file.startswith("rewards"):  # a metric, too
        expected["score_images"] = 7 * 3 + 2
    assert finished.jobs(config=CONFIG) == expected


def test_another_number_of_inference_steps_makes_its_images_only(finished: Checkout) -> None:
    finished.edit(CONFIG, "inference_steps: [null, 1]", "inference_steps: [null, 1, 2]")
    assert finished.jobs(config=CONFIG) == {"generate_images": 7, "score_images": 7} | DRAWN


def test_another_prompt_set_to_judge_on_trains_nothing(finished: Checkout) -> None:
    finished.edit(CONFIG, "rewards: [", "  crosses: {source: shapes, count: 4}\nrewards: [")
    expected = {"make_prompts": 1, "generate_images": 7, "score_images": 7} | DRAWN
    assert finished.jobs(config=CONFIG) == expected


def test_editing_how_costs_are_reckoned_draws_what_shows_them(finished: Checkout) -> None:
    finished.add_statement("rocm_core/analysis/efficiency.py")
    shown = dict.fromkeys(("figure5", "efficiency", "horizon", "costs", "claims", "report"), 1)
    assert finished.jobs(config=CONFIG) == shown
