"""The benchmarks measure what they say: equal gradients, and models of the size they name."""

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import models
from benchmarks.compare import SIZES
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.plain import PlainLoop
from rocm_core.policies import load_policy
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


def test_the_plain_loop_has_our_gradient(setup, tmp_path):
    sides = [kind(setup, CPU) for kind in (Ours, PlainLoop)]
    gradients = []
    for side in sides:
        file = tmp_path / f"{type(side).__name__}.safetensors"
        side.gradient(str(file))
        gradients.append(torch.cat([g.flatten() for g in load_file(file).values()]))
    ours, plain = gradients
    assert plain.norm() > 0
    assert (ours - plain).norm() < 1e-4 * plain.norm()


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
        policy = load_policy(name, paths[name], 2, 7.5)
        embeddings = policy.encode_prompts(["a large red circle"])
        assert embeddings.shape == (1, 77, 768)
        with torch.no_grad():
            latents = policy.rollout(embeddings, policy.noise(0, ["a"], "test")).latents
            images = policy.decode(latents)
        assert images.shape == (1, 3, 64, 64)
        reward = load_reward("hpsv2", paths["scorer"])
        assert reward.score(images, ["a large red circle"]).isfinite().all()
    assert models.write_models("full", tmp_path) == paths
