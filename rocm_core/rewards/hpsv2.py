"""HPSv2: the cosine of an OpenCLIP fine-tuned on human preferences, without logit scale (Wu 2023).

A folder holds either OpenCLIP's own layout (open_clip_config.json, open_clip_model.safetensors and
tokenizer/) or the published ``HPS_v2_compressed.pt`` or ``HPS_v2.1_compressed.pt`` alone, which is
a ViT-H-14 with OpenCLIP's own tokenizer. Published scores are about 0.2 to 0.3.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import open_clip
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import build, fill, load_tokenizer, read_tensors, readable
from rocm_core.rewards.frozen import FrozenReward, tokenize
from rocm_core.rewards.preprocessing import Preprocessing

DIFFERENTIABLE = True

ARCHITECTURE = "ViT-H-14"


class HPSv2(FrozenReward):
    """cos(image, text) of an OpenCLIP model, in [-1, 1]; its own tokenizer where none is given."""

    def __init__(
        self,
        clip: open_clip.CLIP,
        tokenizer: PreTrainedTokenizerBase | None,
        preprocessing: Preprocessing,
    ):
        super().__init__(preprocessing)
        self.clip, self.tokenizer = clip, tokenizer

    @classmethod
    def read(cls, folder: Path) -> Self:
        tokenizer: PreTrainedTokenizerBase | None = None
        if (folder / "open_clip_config.json").is_file():
            file, tokenizer = folder / "open_clip_model.safetensors", load_tokenizer(folder)
            path, tensors = folder / "open_clip_config.json", read_tensors(file)
            with readable(f"{path} is not an OpenCLIP configuration"):
                config = json.loads(path.read_text(encoding="utf-8"))
                open_clip.CLIPVisionCfg(**config["model_cfg"]["vision_cfg"])
                open_clip.CLIPTextCfg(**config["model_cfg"]["text_cfg"])
        else:
            files = sorted(folder.glob("HPS_v2*.pt"))
            if len(files) != 1:
                raise UserError(
                    f"{folder} must hold open_clip_config.json or one HPS_v2*.pt; fetch it"
                )
            file, config = files[0], {"model_cfg": open_clip.get_model_config(ARCHITECTURE)}
            tensors = _unwrap(file)
        clip = build(lambda: open_clip.CLIP(**config["model_cfg"]))
        fill(clip, tensors, file)
        return cls(clip, tokenizer, preprocessing(clip, config))

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.clip.encode_image(pixels)

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        length, device = self.clip.context_length, self.clip.logit_scale.device
        if self.tokenizer is None:
            ids = open_clip.tokenize(list(prompts), length).to(device)
        else:
            ids, _ = tokenize(self.tokenizer, prompts, length, device)
        return self.clip.encode_text(ids)


def preprocessing(clip: open_clip.CLIP, config: dict[str, Any]) -> Preprocessing:
    """The hpsv2 package's: the long side to the network's size, black borders, no clipping."""
    size, chosen = clip.visual.image_size, config.get("preprocess_cfg", {})
    return Preprocessing(
        size if isinstance(size, int) else size[0],
        tuple(chosen.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        tuple(chosen.get("std", open_clip.OPENAI_DATASET_STD)),
        fit="pad",
        clip=False,
    )


def _unwrap(file: Path) -> dict[str, Tensor]:
    tensors = read_tensors(file)
    if not isinstance(tensors, dict) or not isinstance(tensors.get("state_dict"), dict):
        raise UserError(f"{file} holds no state_dict; fetch the published checkpoint again")
    return tensors["state_dict"]


load = HPSv2.load
