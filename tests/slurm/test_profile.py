"""The profile itself: needs no Slurm."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, Checkout

from rocm_core.configuration.config import Resources
from rocm_core.errors import UserError
from rocm_core.grid import load_config, offered
from rocm_core.jobs import require_account


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


def test_a_site_asks_for_gpus_in_its_own_form_by_one_key() -> None:
    """Every rule whose job takes GPUs asks for as many, in that form."""
    for n in (1, 2):
        assert Resources(gpus=2).request(n) == {"gpu": n}
        assert Resources(gpus=2, gres="gpu:a100").request(n) == {"gpu": 0, "gres": f"gpu:a100:{n}"}
    assert Resources(gres="gpu:a100").request(0) == {"gpu": 0}
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    rules = [rule for rule in text.split("\nrule ") if "commands.launch --gpus" in rule]
    assert len(rules) == 8 and " gpu=" not in text
    for rule in rules:
        (asked,) = re.findall(r"\*\*CONFIG\.resources\.request\((.*)\),", rule)
        assert f"gpus=lambda w, output: {asked}," in rule


def test_every_job_that_wants_a_gpu_checks_that_it_is_there(tmp_path: Path) -> None:
    """However Slurm is asked for it."""
    config = yaml.safe_load((ROOT / "config/pilot.yaml").read_text())
    config["resources"] |= {"gpus": 2, "gres": "gpu:a100"}
    config |= {"published": ["hpsv2", "hpsv2_0"], "snapshots": {"prompts": 1}}
    config["training"]["snapshot_every"] = 100
    (tmp_path / "pilot.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    planned = Checkout(ROOT).snakemake(
        *("-n", "-p", "all", "--configfile", str(tmp_path / "pilot.yaml"))
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


def test_without_sacctmgr_the_executor_ends_and_with_the_documented_one_it_is_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from snakemake_executor_plugin_slurm.accounts import validate_account

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="sacctmgr"):
        validate_account("your-account", logging.getLogger())
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    (lines,) = re.findall("executable `sacctmgr` of two lines, `(.*?)` and `(.*?)`", text)
    for named, program in ((True, "sacctmgr"), (False, "sacct")):
        with pytest.raises(UserError, match=rf"^{program}, which Slurm's executor asks .* PATH of"):
            require_account(named)
    script(tmp_path / "sacctmgr", "#!/bin/sh", "echo no database >&2", "exit 1")
    with pytest.raises(UserError, match=r"fails \(no database\), and so does sshare: remove"):
        require_account(named=True)
    script(tmp_path / "sshare", "#!/bin/sh", "echo your-account")
    require_account(named=True)
    script(tmp_path / "sacctmgr", *lines)
    require_account(named=True)
    for _ in range(2):
        assert validate_account("your-account", logging.getLogger()) == "your-account"
    assert not caplog.records


@pytest.mark.parametrize("account", [("slurm_account=me",), ()])
def test_an_executor_that_cannot_ask_for_the_account_says_so_once_and_submits_nothing(
    account: tuple[str, ...], tmp_path: Path
) -> None:
    """Not once for every job and each of its retries, in traces."""
    for name in ("sh", "bash", "git", "env", "which"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    submitted = tmp_path / "submitted"
    for name in ("sbatch", "sinfo", "squeue"):
        script(tmp_path / name, "#!/bin/sh", f'[ {name} = sbatch ] && echo "$@" >> {submitted}')
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "prompts", "-s", str(ROOT / "Snakefile")]
        + ["--executor", "slurm", "--jobs", "2", "--retries", "3"]
        + ["--default-resources", "nodes=1", *account],
        cwd=tmp_path,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    program = "sacctmgr" if account else "sacct"
    said = done.stdout + done.stderr
    assert done.returncode != 0 and not submitted.exists()
    assert f"error: {program}, which Slurm's executor asks" in said.splitlines()[-1]
    assert said.count(program) == 1


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines))
    path.chmod(0o755)
