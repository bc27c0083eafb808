"""config/few-step.yaml on tiny twins of its models: trained, drawn, scored, shown."""

import csv
from pathlib import Path

import few_step
import pytest
import yaml
from checkout import Checkout, copy_checkout

TWINS = {
    "sdxl": "LCM-SDXL",
    "pixart": "PixArt-LCM",
    "sana": "SANA-Sprint",
    "sd3": "SD3.5-turbo",
    "flux": "FLUX.1-schnell",
}


def tiny_config(checkout: Checkout) -> dict:
    """The configuration with other models, scorers, prompts and lengths, and JS left out."""
    config = yaml.safe_load((checkout.path / "config/few-step.yaml").read_text())
    shapes = yaml.safe_load((checkout.path / "config/demo.yaml").read_text())
    for name, policy in config["policies"].items():
        policy.pop("lora", None)
        policy["model"] = f"models/{name}"
        policy["guidance_scale"] = few_step.TWINS[TWINS[name]].guidance_scale
        few_step.write(checkout.path / policy["model"], TWINS[name])
    methods = {n: own or {} for n, own in config["methods"].items() if not n.endswith("-js")}
    short = {"iterations": 1, "accumulation_steps": 2, "updates_per_iteration": 1}
    short["images_per_prompt"] = 2
    for name in methods:
        methods[name] = short if name.startswith("ppo") else methods[name] | {"iterations": 1}
    prompts = {"source": "shapes", "count": 2}
    return config | {
        "world": "shapes",
        "resolution": 32,
        "scorers": {name: shapes["scorers"][name] for name in config["scorers"]},
        "prompts": {
            "train": prompts | {"seed": 1},
            "validation": prompts | {"seed": 2, "held_out": True},
        },
        "methods": methods,
        "resources": {},
    }


@pytest.mark.faults
def test_few_step_models_go_from_their_folders_to_the_tables(
    tmp_path: Path, executable: str
) -> None:
    checkout = copy_checkout(tmp_path, executable)
    config = tiny_config(checkout)
    (checkout.path / "config/tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    asked = ("tables", "--cores", "2", "--show-failed-logs", "--configfile", "config/tiny.yaml")
    done = checkout.snakemake(*asked)
    assert done.returncode == 0, done.stdout + done.stderr
    results = checkout.path / "results/few-step"
    for name in config["policies"]:
        cells = [f"hpsv2/{method}/seed-0" for method in (f"direct-{name}-kl", f"ppo-{name}")]
        for source in (f"base-{name}", *cells):
            (folder,) = (results / "samples" / source / "validation").iterdir()
            with open(folder / "scores.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == 2 * 6 and {row["metric"] for row in rows} == {*config["scorers"]}
    with open(results / "tables/table1.csv", newline="") as file:
        shown = file.read()
    assert all(f"direct-{name}-kl" in shown for name in config["policies"])
