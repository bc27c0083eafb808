"""Run in the judges' environment: the published scorers on tiny twins of their weights."""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from rocm_core import judges
from rocm_core.judges import Judge, judge_folder


def load_pickscore(weights: Path, _: str) -> Judge:
    """The example of PickScore's model card, which is no package, on transformers of its time."""
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(str(weights), use_fast=False)
    model = AutoModel.from_pretrained(str(weights)).eval()
    limits = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}

    @torch.no_grad()
    def score(image: Path, prompt: str) -> float:
        seen = model.get_image_features(**processor(images=[Image.open(image)], **limits))
        read = model.get_text_features(**processor(text=prompt, **limits))
        seen, read = (x / torch.norm(x, dim=-1, keepdim=True) for x in (seen, read))
        return float(model.logit_scale.exp() * (read @ seen.T)[0, 0])

    return score


def main() -> None:
    """Arguments: the tiny OpenCLIP configuration (JSON), the judges (JSON), samples, output."""
    config, chosen, samples, output = sys.argv[1:]
    sys.modules["turtle"] = mock.MagicMock()
    from hpsv2.src.open_clip import add_model_config
    from ImageReward.models.BLIP import blip_pretrain, vit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-twin.json"
        path.write_text(config)
        add_model_config(path)
    judges.ARCHITECTURE = "tiny-twin"

    def create_vit(_: str, size: int, *rest: object) -> tuple:
        width = 128
        return vit.VisionTransformer(
            size, 16, embed_dim=width, depth=2, num_heads=2, mlp_ratio=2
        ), width

    blip_pretrain.create_vit = create_vit
    with mock.patch.dict(judges._JUDGES, pickscore=load_pickscore):
        judge_folder(json.loads(chosen), Path(samples), Path(output))


main()
