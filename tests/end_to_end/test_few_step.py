"""config/few-step.yaml on tiny twins of its models: tried, trained, drawn, scored, shown."""

import csv
from pathlib import Path

import few_step
import pytest
import yaml
from checkout import Checkout, copy_checkout

TWINS = {
    "pixart": "PixArt-LCM",
    "sana": "SANA-Sprint",
    "sd3": "SD3.5-turbo",
    "flux": "FLUX.1-schnell",
}


def tiny_config(checkout: Checkout) -> dict:
    """The configuration with other models, scorers, prompts and lengths."""
    config = yaml.safe_load((checkout.path / "config/few-step.yaml").read_text())
    shapes = yaml.safe_load((checkout.path / "config/demo.yaml").read_text())
    for name, policy in config["policies"].items():
        policy["model"] = f"models/{name}"
        if "lora" in policy:
            policy["lora"] = f"models/{name}-lora"
            few_step.write_with_lora(*(checkout.path / policy[key] for key in ("model", "lora")))
        else:
            few_step.write(checkout.path / policy["model"], TWINS[name])
    methods = config["methods"]
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
    tried = checkout.python(
        "-m", "rocm_core.commands.preflight", "--configfile", "config/tiny.yaml"
    )
    assert tried.returncode == 0 and tried.stdout.endswith("\nready\n"), tried.stdout + tried.stderr
    asked = ("tables", "--cores", "2", "--show-failed-logs", "--configfile", "config/tiny.yaml")
    done = checkout.snakemake(*asked)
    assert done.returncode == 0, done.stdout + done.stderr
    results = checkout.path / "results/few-step"
    for name in config["policies"]:
        methods = (f"direct-{name}-kl", f"direct-{name}-js", f"ppo-{name}")
        cells = [f"hpsv2/{method}/seed-0" for method in methods]
        for source in (f"base-{name}", *cells):
            (folder,) = (results / "samples" / source / "validation").iterdir()
            with open(folder / "scores.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == 2 * 6 and {row["metric"] for row in rows} == {*config["scorers"]}
    shown = {table: (results / f"tables/{table}.csv").read_text() for table in ("table1", "table4")}
    for name in config["policies"]:
        assert f"direct-{name}-kl" in shown["table1"] and f"direct-{name}-js" in shown["table1"]
        assert f"ppo-{name}" in shown["table4"]
