"""A clone goes on from the shards of a study: what they hold is drawn, and never made again."""

import shutil

from checkout import Checkout

CONFIG = "config/matrix.yaml"
# Without images there are no figures of images.
DRAWN = ("table1", "table3", "readouts", "claims", "report", "divergences", "figure5")
DRAWN += ("gold_vs_kl", "gold_vs_reward", "squared_distance", "training")
OF_IMAGES = ("figure1", "figure2", "figure6", "samples")
MADE = ("train_cell", "evaluate_images", "evaluate_snapshots")


def test_a_clone_makes_only_what_no_shard_can_stand_for(finished: Checkout) -> None:
    with open(finished.path / CONFIG, "a") as file:
        file.write("shards: docs/results/matrix\n")
    done = finished.make("shards", f"CONFIG={CONFIG}")
    assert "7 shards" in done.stdout and "0 refused, 0 not finished" in done.stdout, done.stderr
    for folder in ("results/matrix", ".snakemake"):
        shutil.rmtree(finished.path / folder)
    assert finished.jobs() == dict.fromkeys(DRAWN, 1)
    for folder in ("cells", "samples"):
        shutil.rmtree(finished.path / "docs/results/matrix" / folder / "hpsv2/rocm-js")
    finished.edit(CONFIG, "rocm-kl: {beta: 0.02}", "rocm-kl: {beta: 0.03}")
    made = {"make_prompts": 2} | dict.fromkeys(MADE, 3)
    assert finished.jobs() == made | dict.fromkeys(DRAWN + OF_IMAGES, 1)
    (said,) = (line for line in finished.plan().splitlines() if line.startswith("warning: docs"))
    assert said == (
        "warning: docs/results/matrix: hpsv2/rocm-kl/seed-0 and 1 more can't be used and will be"
        " made again: docs/results/matrix/cells/hpsv2/rocm-kl/seed-0/manifest.json: made with beta"
        " 0.02, the configuration says 0.03"
    )
