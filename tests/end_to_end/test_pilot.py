"""The pilot and its gate as a user runs them: Snakemake, then one verdict."""

import contextlib
import json
import os
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout
from small_pilot import CONFIG, anchors_of, write_pilot
from twins import ARCHITECTURE, open_clip_config

from rocm_core.analysis import Results, read_anchors
from rocm_core.grid import load_config


@pytest.mark.faults
def test_the_gate_reads_what_the_workflow_leaves(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    (tmp_path / f"{ARCHITECTURE}.json").write_text(json.dumps(open_clip_config()))
    checkout.edit(
        "rocm_core/rewards/hpsv2.py",
        'ARCHITECTURE = "ViT-H-14"',
        f'ARCHITECTURE = "{ARCHITECTURE}"\nopen_clip.add_model_config("{tmp_path}")',
    )
    anchors = checkout.path / "anchors.yaml"
    anchors.write_text(yaml.safe_dump(read_anchors().to_dict() | {"resolution": 8}))
    gate = ["-m", "rocm_core.commands.gate", "--configfile", CONFIG, "--anchors", str(anchors)]
    with contextlib.chdir(checkout.path):
        write_pilot()
        early = checkout.python(*gate)
        assert early.returncode == 2 and "missing: run `snakemake all" in early.stderr
        done = checkout.snakemake(
            "all", "--cores", os.environ.get("CORES", "2"), "--configfile", CONFIG
        )
        assert done.returncode == 0, done.stdout + done.stderr
        config = load_config(CONFIG)
        anchors.write_text(yaml.safe_dump(anchors_of(Results(config, config.root)).to_dict()))
        passed = checkout.python(*gate)
        assert passed.returncode == 0, passed.stdout + passed.stderr
        assert "FAILED" not in passed.stdout and passed.stdout.count("\n") == 30
        figure = config.root / "figures/figure2.png"
        figure.write_bytes(figure.read_bytes() + b"0")
        damaged = checkout.python(*gate)
        assert damaged.returncode == 1 and damaged.stdout.count("FAILED") == 2
        assert "FAILED  results as configured: " in damaged.stdout
        assert str(figure) in damaged.stdout
