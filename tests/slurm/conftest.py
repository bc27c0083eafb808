"""A cluster for the session, a prepared checkout, and a copy of it for each test."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_checkout

sys.path.insert(0, str(Path(__file__).parent))

from cluster import INSTALL, Cluster, missing_programs
from workplace import DEMO, ITERATIONS, SMALL, SNAPSHOT, Site, copy_site, train_here


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
    """The project with two small grids and the profile edited as docs/cluster.md says."""
    checkout = copy_checkout(tmp_path_factory.mktemp("prepared") / "checkout")
    config = yaml.safe_load((checkout.path / "config/demo.yaml").read_text())
    config["resources"] |= {"gpus": 1, "memory_gib": 1}
    config["prompts"]["train"]["count"] = 16
    config["prompts"]["validation"]["count"] = 4
    config["snapshots"]["prompts"] = 2
    config["progress"] = {"seconds": 0}  # each step is shown at once
    config["training"] |= {"iterations": 4, "batch_size": 2, "snapshot_every": 2}
    config["methods"] = dict([*config["methods"].items()][:3])  # one more than there are GPUs
    _write(checkout.path / f"config/{DEMO}.yaml", config)
    config |= {
        "name": SMALL,
        "rewards": ["hpsv2"],
        "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.02}},
        "metrics": ["hpsv2", "gold"],
        "snapshots": {"prompts": 0},
    }
    config["training"] |= {"iterations": ITERATIONS, "snapshot_every": SNAPSHOT}
    _write(checkout.path / f"config/{SMALL}.yaml", config)
    for commented in ("slurm-status-command: squeue", 'slurm_partition: "gpu"'):
        checkout.edit("slurm/config.yaml", f"# {commented}", commented)
    checkout.edit("slurm/config.yaml", "latency-wait: 60", "latency-wait: 5")
    made = checkout.snakemake("prompts", "--cores", "1", "--configfile", f"config/{SMALL}.yaml")
    assert made.returncode == 0, made.stdout + made.stderr
    return checkout.path


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the cell of the small grid learns when nothing happens."""
    return train_here(prepared, f"config/{SMALL}.yaml", tmp_path_factory.mktemp("undisturbed"))


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
