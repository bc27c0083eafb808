"""ImageReward's published checkpoint as transformers' BLIP: the same network under other names.

`ImageReward.pt` is the state dict of the image-reward package's model, a ViT as timm names it and
BLIP's text encoder (MED), whose sizes `med_config.json` gives; the ViT's are read off its tensors.
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from rocm_core.rewards.checkpoints import build, fill, read_tensors, readable
from rocm_core.rewards.head import ScoreHead

_HEAD_WIDTH = 64  # of attention, in every published ViT
_NAMES = (
    (r"^blip\.visual_encoder\.", "vision_model."),
    (r"^blip\.text_encoder\.", "text_encoder."),
    (r"^vision_model\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^vision_model\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^vision_model\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.norm\.", "vision_model.post_layernorm."),
    (r"^vision_model\.blocks\.", "vision_model.encoder.layers."),
    (r"(^vision_model\..*)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"(^vision_model\..*)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"(^vision_model\..*)\.attn\.proj\.", r"\1.self_attn.projection."),
)
# In the file, but no part of the score.
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|.*\.position_ids$")


class Blip(nn.Module):
    """What ImageReward uses of BLIP: an image encoder, and a text encoder that looks at images."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig):
        super().__init__()
        self.vision_model = BlipVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)


def read_published(folder: Path) -> tuple[Blip, ScoreHead]:
    """The networks of ImageReward.pt and med_config.json; raises :class:`UserError`."""
    file = folder / "ImageReward.pt"
    published = read_tensors(file)
    with readable(f"{file} holds no BLIP image encoder"):
        vision = _vision_config(published)
    text = _text_config(folder / "med_config.json", vision.hidden_size)
    blip = build(lambda: Blip(vision, text))
    head = {k.removeprefix("mlp."): v for k, v in published.items() if k.startswith("mlp.")}
    tensors = {
        _rename(key): value
        for key, value in published.items()
        if not key.startswith("mlp.") and not _UNUSED.match(key)
    }
    fill(blip, tensors, file)
    return blip, ScoreHead.of(head, file)


def _rename(key: str) -> str:
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    return key


def _vision_config(tensors: dict[str, Tensor]) -> BlipVisionConfig:
    prefix = "blip.visual_encoder."
    _, positions, width = tensors[f"{prefix}pos_embed"].shape
    patch = tensors[f"{prefix}patch_embed.proj.weight"].shape[-1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len([key for key in tensors if key.endswith("attn.qkv.weight")]),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=round((positions - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )


def _text_config(path: Path, image_width: int) -> BlipTextConfig:
    keys = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("vocab_size", "max_position_embeddings", "layer_norm_eps", "hidden_act", "pad_token_id"),
    )
    with readable(f"{path} is not a configuration of MED"):
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return BlipTextConfig(
            **{key: config[key] for key in keys},
            encoder_hidden_size=image_width,
            is_decoder=True,  # or it has no cross-attention
        )
