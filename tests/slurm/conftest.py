"""A cluster for the session, a prepared checkout, and a copy of it for each test."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout

sys.path.insert(0, str(Path(__file__).parent))

from cluster import INSTALL, Cluster, missing_programs
from workplace import CELL, CONFIG, ITERATIONS, SNAPSHOT, Site, copy_site, learned


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := missing_programs():
        reason = f"no {', '.join(missing)}: {INSTALL}"
        if os.environ.get("ROCM_NEEDS_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a small configuration and the profile edited as docs/cluster.md says."""
    checkout = copy_checkout(tmp_path_factory.mktemp("prepared") / "checkout")
    config = yaml.safe_load((checkout.path / "config/demo.yaml").read_text())
    config |= {
        "name": "cluster",
        "rewards": ["aesthetic"],
        "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.02}},
        "metrics": ["aesthetic", "gold"],
        "monitor": {"prompts": 0},
        "resources": {"gpus": 1, "memory_gib": 1, "runtime_minutes": 30},
    }
    del config["cells"]
    config["prompts"]["train"]["count"] = 16
    config["prompts"]["validation"]["count"] = 4
    config["training"] |= {
        "iterations": ITERATIONS,
        "batch_size": 2,
        "snapshot_every": SNAPSHOT,
    }
    (checkout.path / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    for commented in ("slurm-status-command: squeue", 'slurm_partition: "gpu"'):
        checkout.edit("slurm/config.yaml", f"# {commented}", commented)
    checkout.edit("slurm/config.yaml", "latency-wait: 60", "latency-wait: 5")
    done = checkout.snakemake("prompts", "--cores", "1", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout.path


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the cell learns when nothing happens; trained here, without Snakemake and Slurm."""
    from rocm_core.config import load_config
    from rocm_core.grid import make_grid
    from rocm_core.prompts import read_prompts
    from rocm_core.training import train

    folder = tmp_path_factory.mktemp("undisturbed")
    before = Path.cwd()
    os.chdir(prepared)
    try:
        (settings,) = (c.settings for c in make_grid(load_config(CONFIG)) if c.name == CELL)
        prompts = read_prompts(Path("results/cluster/prompts/train.jsonl"))
        train(settings, prompts, folder / "cell", folder / "state", "elsewhere")
    finally:
        os.chdir(before)
    return learned(folder / "cell")


@pytest.fixture
def site(cluster: Cluster, prepared: Path, tmp_path: Path) -> Iterator[Site]:
    copy_site(prepared, tmp_path / "checkout")
    site = Site(tmp_path / "checkout", cluster)
    try:
        yield site
    finally:
        site.close()
        cluster.restore()


@pytest.fixture(autouse=True)
def stopwatch(request: pytest.FixtureRequest) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"\n{request.node.name}: {time.monotonic() - began:.0f} s")
