"""The models that trainers are compared on: the shapes world's, or random ones of SD1.5's size.

Times do not depend on what the weights say. Both sizes get the shapes world's tokenizer, in the
files that older libraries read too.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ROOT / "resources/shapes"
SCORER = SHAPES / "scorers/hpsv2"

UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 49408,
}


def write_models(size: str, folder: Path) -> dict[str, str]:
    """Write `consistency`, `diffusion` and `scorer` folders, or name those that are there."""
    if size == "tiny":
        shutil.copytree(SHAPES / "diffusion", folder / "diffusion", dirs_exist_ok=True)
        _write_old_tokenizer(folder / "diffusion/tokenizer")
        _rename_text_encoder(folder / "diffusion/text_encoder/model.safetensors")
        consistency = str(SHAPES / "consistency")
        return {
            "consistency": consistency,
            "diffusion": str(folder / "diffusion"),
            "scorer": str(SCORER),
        }
    if not (folder / "done").exists():
        _write_pipelines(folder)
        _write_scorer(folder / "scorer")
        (folder / "done").touch()
    return {name: str(folder / name) for name in ("consistency", "diffusion", "scorer")}


def _write_old_tokenizer(folder: Path, length: int | None = None) -> None:
    """Add vocab.json and merges.txt to a tokenizer.json; length: another maximum of tokens."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    if length:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config | {"model_max_length": length})
        )


def _rename_text_encoder(file: Path) -> None:
    """The names that transformers 4 gave a CLIPTextModel's tensors; version 5 reads them too."""
    tensors = load_file(file)
    named = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in tensors.items()}
    save_file(named, file, metadata={"format": "pt"})


def _write_pipelines(folder: Path) -> None:
    """A consistency and a diffusion model of SD1.5's size, at random, in half precision."""
    from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts = {
        "vae": AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
    }
    for name, width in {"consistency": 256, "diffusion": None}.items():
        unet = UNet2DConditionModel(**UNET, time_cond_proj_dim=width)
        scheduler = LCMScheduler(**noise) if width else DDIMScheduler(**noise, clip_sample=False)
        for part, module in {**parts, "unet": unet}.items():
            module.half().save_pretrained(folder / name / part)
        scheduler.save_pretrained(folder / name / "scheduler")
        shutil.copytree(SHAPES / "diffusion/tokenizer", folder / name / "tokenizer")
        _write_old_tokenizer(folder / name / "tokenizer", 77)
        _rename_text_encoder(folder / name / "text_encoder/model.safetensors")
        index = (SHAPES / f"{name}/model_index.json").read_text()
        (folder / name / "model_index.json").write_text(index)


def _write_scorer(folder: Path) -> None:
    """HPSv2's ViT-H-14 at random, with the shapes world's tokenizer."""
    import open_clip

    folder.mkdir(parents=True)
    config = open_clip.get_model_config("ViT-H-14")
    clip = open_clip.CLIP(**config).half()
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    shutil.copytree(SCORER / "tokenizer", folder / "tokenizer")
