"""The profile itself: needs no Slurm."""

import re
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, Checkout

from rocm_core.grid import load_config, offered


def test_whatever_is_drawn_is_drawn_in_one_job() -> None:
    config = "config/demo.yaml"
    planned = Checkout(ROOT).snakemake(
        *("-n", "all", "--forceall", "--profile", "slurm", "--configfile", config)
    )
    assert planned.returncode == 0, planned.stderr
    (group,) = re.findall(r"Group job render .*?(?=\n\[|\Z)", planned.stdout, re.S)
    drawn = set(re.findall(r"Job \d+: (.*)", group))
    loaded = load_config(ROOT / config)
    assert drawn == {
        *(f"Rendering the table {name}" for name in offered("tables", loaded)),
        *(f"Rendering the figure {name}" for name in offered("figures", loaded)),
        *("Deciding the claims", "Assembling the report"),
    }


@pytest.mark.parametrize("gres", [None, "gpu:a100"])
def test_every_job_that_wants_a_gpu_asks_for_it_and_checks_that_it_is_there(
    tmp_path: Path, gres: str | None
) -> None:
    """In the form that the site wants, which one key says."""
    config = yaml.safe_load((ROOT / "config/pilot.yaml").read_text())
    config["resources"] |= {"gpus": 2, "gres": gres}
    config |= {"published": ["hpsv2", "hpsv2_0"], "snapshots": {"prompts": 1}}
    config["training"]["snapshot_every"] = 100
    (tmp_path / "pilot.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    planned = Checkout(ROOT).snakemake(
        *("-n", "-p", "all", "--configfile", str(tmp_path / "pilot.yaml"))
    )
    assert planned.returncode == 0, planned.stderr
    requests = {
        rule: re.findall(r"(?:gpu|gres)=[^,\s]+", resources)
        for rule, resources in re.findall(
            r"^rule (\w+):$.*?^    resources: (.*?)$", planned.stdout, re.M | re.S
        )
    }
    form = (lambda n: ["gpu=0", f"gres={gres}:{n}"]) if gres else (lambda n: [f"gpu={n}"])
    one = ("evaluate_images", "evaluate_snapshots", "score_published")
    assert {rule: asked for rule, asked in requests.items() if asked} == {"train_cell": form(2)} | {
        rule: form(1) for rule in one
    }
    asked: dict[str, set[str]] = {}
    for command in re.findall(r"^Shell command: (.*\$SCRIPTS/.*)", planned.stdout, re.M):
        (script,) = re.findall(r"\$SCRIPTS/(\w+)\.py", command)
        (gpus,) = re.findall(r"commands\.launch --gpus (\d+) ", command) or ["none"]
        asked.setdefault(script, set()).add(gpus)
    named = ("evaluate", "evaluate_snapshots", "score_published")
    expected = {"train": {"2"}} | {name: {"1"} for name in named}
    assert {script: gpus for script, gpus in asked.items() if gpus != {"none"}} == expected
