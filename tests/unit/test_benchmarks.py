"""The benchmarks measure what they say: equal gradients, and models of the size they name."""

import json
import os
import re

import open_clip
import pytest
import tiny
import torch
from checkout import ROOT
from safetensors.torch import load_file

from benchmarks import models, report
from benchmarks.compare import RESULTS, SIZES, SWITCHES
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.plain import PlainLoop
from benchmarks.demo import wall_seconds
from rocm_core.policies import HIDDEN
from rocm_core.rewards import load_reward

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        **SIZES["tiny"],
        **models.write_models("tiny", folder),
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "policy": "consistency",
        "algorithm": "direct",
        "divergence": "kl",
        "reward": "hpsv2",
        "batch_size": 2,
        "prompts": ["a large red circle", "a small blue square"],
    }


def gradient(side, folder):
    file = folder / "gradient.safetensors"
    side.gradient(str(file))
    return torch.cat([g.flatten() for g in load_file(file).values()])


@pytest.fixture(scope="module")
def plain(setup, tmp_path_factory):
    """The plain loop's gradient."""
    found = gradient(PlainLoop(setup, CPU), tmp_path_factory.mktemp("plain"))
    assert found.norm() > 0
    return found


# Another estimator; what takes part in no step of ROCM, below; and what takes minutes, in
# test_compile.py.
OTHER = {"reference_gradient: stop", "guidance in two passes", "compile: true"}


@pytest.mark.parametrize("switch", [None, *sorted(SWITCHES.keys() - OTHER)])
def test_the_step_has_the_plain_loops_gradient_however_it_is_switched(
    setup, plain, tmp_path, switch
):
    turned = SWITCHES[switch][1] if switch else {}
    ours = gradient(Ours(setup | turned, CPU), tmp_path)
    assert (ours - plain).norm() < 1e-4 * plain.norm()


def test_guidance_in_one_batch_has_the_gradient_of_two_passes(setup, tmp_path):
    both, turned = SWITCHES["guidance in two passes"]
    once, twice = (gradient(Ours(setup | both | more, CPU), tmp_path) for more in ({}, turned))
    assert twice.norm() > 0
    assert (once - twice).norm() < 1e-4 * twice.norm()


def test_the_fused_optimiser_takes_the_steps_of_torchs_default(setup):
    fused, default = (Ours(setup | more, CPU) for more in ({}, SWITCHES["AdamW not fused"][1]))
    before = [value.detach().clone() for value in fused.parameters]
    for side in (fused, default):
        for _ in range(3):
            side.step()
    moved = [a.detach() - b for a, b in zip(fused.parameters, before, strict=True)]
    apart = [
        a.detach() - b.detach() for a, b in zip(fused.parameters, default.parameters, strict=True)
    ]
    assert norm(apart) < 1e-3 * norm(moved)


def norm(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


@pytest.mark.parametrize("mode", ["none", "step", "block"])
def test_passes_are_counted_once_however_they_are_checkpointed(setup, mode):
    ours = Ours(setup | {"turned": {"activation_checkpointing": mode}}, CPU)
    assert ours.passes() == (2 * setup["steps"] - 1) * setup["batch_size"]


def test_the_floor_is_made_of_the_passes_that_a_step_takes(setup):
    ours = Ours(
        setup | {"turned": {"activation_checkpointing": "none"}}, CPU
    )  # not to be measured first
    passes, before = ours.passes(), ours.trainer.policy.nfe
    assert passes == before
    counts = {name: line["count"] for name, line in ours.floor().items()}
    assert counts.pop("decode and reward") == 1
    assert sum(counts.values()) * setup["batch_size"] == passes
    assert ours.trainer.policy.nfe == before, "bare passes are no steps"


def test_models_of_true_size_are_written_in_layouts_that_load(tmp_path, monkeypatch):
    """Here with fewer and narrower layers."""
    small = {"block_out_channels": (64,) * 4, "layers_per_block": 1}
    monkeypatch.setattr(models, "UNET", models.UNET | small | {"sample_size": 8})
    monkeypatch.setattr(models, "VAE", models.VAE | small | {"sample_size": 64})
    monkeypatch.setattr(models, "TEXT", models.TEXT | {"num_hidden_layers": 1})
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 1}
    scorer = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: scorer)
    paths = models.write_models("full", tmp_path)
    for name in ("consistency", "diffusion"):
        policy = tiny.load_policy(name, paths[name], 2, 7.5)
        embeddings = policy.encode_prompts(["a large red circle"])
        assert embeddings[HIDDEN].shape == (1, 77, 768)
        with torch.no_grad():
            latents = policy.rollout(embeddings, policy.noise(0, ["a"], "test")).latents
            images = policy.decode(latents)
        assert images.shape == (1, 3, 64, 64)
        reward = load_reward("hpsv2", paths["scorer"])
        assert reward.score(images, ["a large red circle"]).isfinite().all()
    assert models.write_models("full", tmp_path) == paths


def test_the_wall_clock_runs_from_the_first_start_to_the_last_end(tmp_path):
    for name, (seconds, end) in {"train/a": (30, 1030), "train/b": (90, 1095)}.items():
        file = tmp_path / f"benchmarks/{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\n{seconds}\t-\n")
        os.utime(file, (end, end))
    assert wall_seconds(tmp_path) == 1095 - 1000
    said = report.demo_clock({"device": "AMD EPYC", "wall_seconds": 95.0})
    assert said.startswith("The demo on AMD EPYC took 1.6 minutes")


def test_the_share_of_start_up_is_that_of_the_record_and_less_than_a_fifth():
    record = json.loads((RESULTS / "demo.json").read_text())
    stages = record["seconds"].values()
    start = sum(seconds["start-up"] for seconds in stages)
    whole = sum(sum(seconds.values()) for seconds in stages)
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    (percent,) = re.findall(r"start-up takes (\d+) % of the time", text)
    assert int(percent) == round(100 * start / whole) < 20
    # A record may lack the wall clock; one that has it is quoted.
    assert record.get("wall_seconds", 0.0) < 600 and report.demo_clock(record) in text
