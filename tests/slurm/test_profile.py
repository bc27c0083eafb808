"""The profile itself: needs no Slurm."""

import re
from pathlib import Path

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


def test_the_rules_that_want_a_gpu_are_those_that_the_profile_and_the_documentation_name() -> None:
    rules = {}
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        named = re.split(r"^ *rule (\w+):$", file.read_text(), flags=re.M)[1:]
        rules |= dict(zip(named[::2], named[1::2], strict=True))
    wanted = {name for name, body in rules.items() if re.search(r"^ +gpu=", body, re.M)}
    profile = (ROOT / "slurm/config.yaml").read_text()
    (listed,) = re.findall(r"the rules that want one \((.*?)\)", profile, re.S)
    named = re.findall(r"\w+", listed)
    # `snakemake world` makes the embedded world, which needs no cluster.
    assert set(named) == {name for name in wanted if not name.startswith("world")}
    assert len(named) == 4
    assert "each of the four GPU rules" in (ROOT / "docs/cluster.md").read_text()


def test_every_job_of_a_rule_that_wants_a_gpu_checks_that_it_is_there(tmp_path: Path) -> None:
    """However Slurm is asked for it: by `gres`, for instance, as slurm/config.yaml shows."""
    config = yaml.safe_load((ROOT / "config/pilot.yaml").read_text())
    config["resources"]["gpus"] = 2
    config["published"] = ["hpsv2", "hpsv2_0"]
    (tmp_path / "pilot.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    planned = Checkout(ROOT).snakemake(
        *("-n", "-p", "all", "--set-resources", "train_cell:gpu=0", "evaluate_images:gpu=0"),
        *("--configfile", str(tmp_path / "pilot.yaml")),
    )
    assert planned.returncode == 0, planned.stderr
    asked: dict[str, set[str]] = {}
    for command in re.findall(r"^Shell command: (.*\$SCRIPTS/.*)", planned.stdout, re.M):
        (script,) = re.findall(r"\$SCRIPTS/(\w+)\.py", command)
        (gpus,) = re.findall(r"commands\.launch --gpus (\d+) ", command) or ["none"]
        asked.setdefault(script, set()).add(gpus)
    named = ("evaluate", "evaluate_snapshots", "score_published")
    expected = {"train": {"2"}} | {name: {"1"} for name in named}
    assert {script: gpus for script, gpus in asked.items() if gpus != {"none"}} == expected
