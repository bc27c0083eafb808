"""Two training steps at true size on the CPU: minutes, 10 GB of memory, 6 GB of disk.

`python -m pytest -m slow -s` runs them and prints what they took.
"""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import tiny
import torch
import twins
from safetensors.torch import load_file

from rocm_core.policies import gaussian
from rocm_core.training import train
from rocm_core.weights import record

MODEL, SCORER = "models/LCM_Dreamshaper_v7", "models/HPSv2"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANK, SIZE = 16, 256


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Random models of the published architectures, in their published layouts."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_pipeline(Path(MODEL))
    Path(SCORER).mkdir(parents=True)
    clip = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    assert count(clip) == 986_109_441
    state = {name: tensor.half() for name, tensor in clip.state_dict().items()}
    torch.save({"state_dict": state}, f"{SCORER}/HPS_v2.1_compressed.pt")
    del clip, state
    record([MODEL, SCORER])
    yield tmp_path
    shutil.rmtree("models")  # pytest keeps the folders of three runs


def write_pipeline(folder: Path) -> None:
    from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=SIZE // 8, cross_attention_dim=768, time_cond_proj_dim=256
    )
    assert count(unet) == 859_602_884  # Stable Diffusion 1.5's 859,520,964 and the embedding of ω
    unet.save_pretrained(folder / "unet")
    del unet
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=SIZE,
    ).save_pretrained(folder / "vae")
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 12, "projection_dim": 768, "vocab_size": 49408}
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    twins.write_clip_tokenizer(folder / "tokenizer")
    LCMScheduler().save_pretrained(folder / "scheduler")


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_a_step_at_true_size_moves_every_adapted_layer(place: Path) -> None:
    """Up-projections begin at zero, so that down-projections have a gradient from step two on."""
    settings = tiny.settings(
        reward="hpsv2",
        scorer=SCORER,
        model=MODEL,
        inference_steps=2,
        guidance_scale=7.5,
        divergence="kl",
        beta=1e-4,
        reduction="mean",
        learning_rate=6e-5,
        batch_size=1,
        iterations=2,
        lora_targets=TARGETS,
        lora_rank=RANK,
        lora_alpha=32.0,
        memory=11.0,
    )
    train(settings, tiny.PROMPTS[:2], place / "out", place / "state", "code")
    tensors = load_file(place / "out/lora.safetensors")
    assert len(tensors) == 2 * 16 * 2 * len(TARGETS)  # 16 blocks with two attentions each
    for name, tensor in tensors.items():
        before = torch.zeros_like(tensor)
        if ".lora_A." in name:
            key, shape = name.removeprefix("unet."), tuple(tensor.shape)
            before = gaussian(settings.seed, [key], shape, "lora")[0] / RANK
        assert tensor.isfinite().all() and not torch.equal(tensor, before), name
    with open(place / "out/history.csv", newline="") as file:
        first, last = csv.DictReader(file)
    assert float(last["peak_memory_gib"]) < 12
    taken = float(last["training_seconds"]) - float(first["training_seconds"])
    print(f"a step took {taken:.0f} s, the process at most {last['peak_memory_gib']} GiB")
