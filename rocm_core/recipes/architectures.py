"""Architectures of the shapes world's scorers: the published classes at a tiny size.

Each scorer has about 0.35 M parameters: a vision transformer of 3 layers, 96 wide, on 32 × 32
pixels in patches of 4 × 4, and a text transformer of 2 layers, 64 wide. They are written in float16
in the layouts that :mod:`rocm_core.rewards` reads.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from rocm_core.rewards import (
    aesthetic,
    blipscore,
    clipscore,
    frozen,
    hpsv2,
    imagereward,
    pickscore,
    preprocessing,
)
from rocm_core.shapes.scenes import SIZE

PATCH, EMBEDDING = 4, 64
VISION = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
HEAD = (64, 32, 16, 8)
CROP = preprocessing.Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STRETCH = preprocessing.Preprocessing(SIZE, CROP.mean, CROP.std, "stretch")


def make_scorer(name: str, tokenizer: CLIPTokenizer) -> frozen.FrozenReward:
    """A scorer with fresh weights; ``aesthetic`` and ``imagereward`` come with a fresh head."""
    if name == "hpsv2":
        config = open_clip_config(tokenizer)
        clip = open_clip.CLIP(**config["model_cfg"])
        return hpsv2.HPSv2(clip, tokenizer, hpsv2.preprocessing(clip, config))
    if name == "aesthetic":
        vision = CLIPVisionModelWithProjection(make_clip(tokenizer).vision_model.config)
        return aesthetic.Aesthetic(vision, make_head(EMBEDDING), CROP)
    if name == "blipscore":
        return blipscore.BlipScore(make_blip(tokenizer), tokenizer, STRETCH)
    if name == "imagereward":
        return imagereward.ImageReward(
            make_blip(tokenizer), make_head(TEXT["hidden_size"]), tokenizer, STRETCH
        )
    return {"clipscore": clipscore.ClipScore, "pickscore": pickscore.PickScore}[name](
        make_clip(tokenizer), tokenizer, CROP
    )


def make_head(width: int) -> frozen.ScoreHead:
    """A head of orthogonal layers: five linear ones in a row would pass no gradient otherwise."""
    head = frozen.ScoreHead(width, HEAD)
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    return head


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """transformers' CLIP."""
    special = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    length = tokenizer.model_max_length
    text = TEXT | special | {"vocab_size": len(tokenizer), "max_position_embeddings": length}
    vision = VISION | {"image_size": SIZE, "patch_size": PATCH, "projection_dim": EMBEDDING}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING))


def make_blip(tokenizer: CLIPTokenizer) -> BlipForImageTextRetrieval:
    """transformers' BLIP; its text encoder can look at the image (cross-attention)."""
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "is_decoder": True,
    }
    vision: dict[str, Any] = VISION | {
        "image_size": SIZE,
        "patch_size": PATCH,
        "initializer_range": 0.02,  # BLIP's default of 1e-10 is for fine-tuning
    }
    return BlipForImageTextRetrieval(
        BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=EMBEDDING)
    )


def open_clip_config(tokenizer: CLIPTokenizer) -> dict:
    """open_clip_config.json of OpenCLIP's CLIP."""
    vision = {
        "image_size": SIZE,
        "patch_size": PATCH,
        "width": VISION["hidden_size"],
        "layers": VISION["num_hidden_layers"],
        "head_width": 24,
        "mlp_ratio": 2.0,
    }
    text = {
        "context_length": tokenizer.model_max_length,
        "vocab_size": len(tokenizer),
        "width": TEXT["hidden_size"],
        "heads": 4,
        "layers": TEXT["num_hidden_layers"],
        "mlp_ratio": 2.0,
        "pool_type": "eos",
        "eos_id": tokenizer.eos_token_id,
    }
    model = {"embed_dim": EMBEDDING, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": {"mean": CROP.mean, "std": CROP.std}}


def save_scorer(reward: frozen.FrozenReward, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a scorer of this file in float16, as :func:`rocm_core.rewards.load_reward` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    reward.half()
    if isinstance(reward, hpsv2.HPSv2):
        save_file(reward.clip.state_dict(), folder / "open_clip_model.safetensors")
        config = json.dumps(open_clip_config(tokenizer), indent=2) + "\n"
        (folder / "open_clip_config.json").write_text(config, encoding="utf-8")
        tokenizer.save_pretrained(folder / "tokenizer")
    else:
        network: Any = (
            reward.blip
            if isinstance(reward, blipscore.BlipScore | imagereward.ImageReward)
            else reward.clip
        )
        network.save_pretrained(folder)
        reward.preprocessing.save(folder)
        if not isinstance(reward, aesthetic.Aesthetic):
            tokenizer.save_pretrained(folder)
    if isinstance(reward, aesthetic.Aesthetic | imagereward.ImageReward):
        save_file(reward.head.state_dict(), folder / "head.safetensors")
    reward.float()
