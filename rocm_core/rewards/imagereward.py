"""ImageReward: BLIP's text encoder looks at the image, a linear head scores it (Xu et al. 2023).

A folder holds the published ``ImageReward.pt`` and ``med_config.json``, with BERT's tokenizer in
tokenizer/, or a transformers BlipForImageTextRetrieval and ``head.safetensors``. Scores are
standardised, so that 0 is the mean and 1 the standard deviation of the published training set.

`ImageReward.pt` is the state dict of the image-reward package's model, the network of transformers'
BLIP under other names: a ViT as timm names it and BLIP's text encoder (MED), whose sizes
`med_config.json` gives; the ViT's are read off its tensors.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from transformers import (
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedTokenizerBase,
)

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import (
    build,
    fill,
    load_model,
    load_tokenizer,
    read_tensors,
    readable,
)
from rocm_core.rewards.frozen import FrozenReward, ScoreHead, tokenize
from rocm_core.rewards.preprocessing import Preprocessing

DIFFERENTIABLE = True

MAX_TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the published head's raw scores


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


class ImageReward(FrozenReward):
    """(head(first text token after cross-attention to the image) - MEAN) / STD."""

    def __init__(
        self,
        blip: BlipForImageTextRetrieval | Blip,
        head: ScoreHead,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
    ):
        super().__init__(preprocessing)
        self.blip, self.head, self.tokenizer = blip, head, tokenizer

    @classmethod
    def read(cls, folder: Path) -> "ImageReward":
        blip: BlipForImageTextRetrieval | Blip
        if (folder / "ImageReward.pt").is_file():
            blip, head = read_published(folder)
            size = blip.vision_model.config.image_size
            preprocessing = Preprocessing(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, "crop")
        else:
            head = ScoreHead.read(folder / "head.safetensors")
            blip = load_model(BlipForImageTextRetrieval, folder)
            if not blip.text_encoder.config.is_decoder:
                raise UserError(
                    f"{folder}/config.json makes a text encoder without cross-attention;"
                    " set text_config.is_decoder to true"
                )
            preprocessing = Preprocessing.from_folder(folder)
        return cls(blip, head, load_tokenizer(folder), preprocessing)

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.blip.vision_model(pixel_values=pixels).last_hidden_state

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Token ids and mask (N, 2, tokens): the encoder reads them beside the image."""
        length = min(MAX_TOKENS, self.blip.text_encoder.config.max_position_embeddings)
        return torch.stack(
            tokenize(self.tokenizer, prompts, length, self.blip.text_encoder.device), 1
        )

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        states = self.blip.text_encoder(
            input_ids=texts[:, 0],
            attention_mask=texts[:, 1],
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], device=images.device).long(),
        ).last_hidden_state
        return (self.head(states[:, 0]) - MEAN) / STD


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


load = ImageReward.load
