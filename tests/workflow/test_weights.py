"""`snakemake weights` fetches what a configuration names, file by file, and outlives a fault."""

from collections.abc import Iterator

import pytest
from checkout import Checkout, copy_checkout
from fake_hub import FakeHub, running_hub

from rocm_core.weights import table

CONFIG = """\
name: hub
world: paper
policies:
  consistency: {model: my/own, steps: 8, guidance_scale: 7.5}
scorers:
  hpsv2: weights/HPSv2.0
  imagereward: weights/ImageReward
prompts:
  train: {source: lists/train.txt}
  validation: {source: lists/validation.txt}
rewards: [hpsv2]
methods: {rocm-none: }
"""
NAMED = [path for path in table() if path.split("/")[1] in ("HPSv2.0", "ImageReward")]
MISSING = table()["weights/ImageReward/med_config.json"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        for file in map(table().__getitem__, NAMED):
            assert file.revision
            hub.put(file.repo, file.revision, file.remote, file.path.encode())
        yield hub


@pytest.mark.faults  # for its time
def test_weights_are_fetched_recorded_and_used(hub: FakeHub, tmp_path, executable: str) -> None:
    checkout, fetching = copy_checkout(tmp_path, executable), Checkout(tmp_path)
    (tmp_path / "lists").mkdir()
    for name in ("train", "validation"):
        (tmp_path / f"lists/{name}.txt").write_text(f"a {name}\n")
    (tmp_path / "config/hub.yaml").write_text(f"{CONFIG}weights: {{endpoint: '{hub.url}'}}\n")
    planned = checkout.jobs(config="config/hub.yaml")
    assert planned["fetch_weights"] == len(NAMED) and planned["train_cell"] == 1

    missing = hub.files.pop((MISSING.repo, MISSING.revision, MISSING.remote))
    run = ["weights", "--cores", "4", "--keep-going", "--configfile", "config/hub.yaml"]
    failed = fetching.snakemake(*run)
    assert failed.returncode != 0
    assert f"error: {MISSING.repo} has no {MISSING.remote}" in failed.stderr
    assert checkout.jobs(config="config/hub.yaml", targets=["weights"]) == {"fetch_weights": 1}

    hub.put(MISSING.repo, MISSING.revision, MISSING.remote, missing)
    assert fetching.snakemake(*run).returncode == 0
    for path in NAMED:
        assert (tmp_path / path).read_bytes() == path.encode()
    assert checkout.jobs(config="config/hub.yaml", targets=["weights"]) == {}
    assert "fetch_weights" not in checkout.jobs(config="config/hub.yaml")
