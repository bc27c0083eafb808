"""Run in the judges' environment: the published scorers on tiny twins of their weights."""

import importlib
import json
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from rocm_core.evaluation import PublishedScorer, published as judges

# From the names of transformers' BLIP to those of the network that image-reward brings along.
BLIP_NAMES = (
    (r"^vision_model\.", "visual_encoder."),
    (r"\.embeddings\.class_embedding$", ".cls_token"),
    (r"\.embeddings\.position_embedding$", ".pos_embed"),
    (r"\.embeddings\.patch_embedding\.", ".patch_embed.proj."),
    (r"\.encoder\.layers\.", ".blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.post_layernorm\.", ".norm."),
)
# From the names of transformers' CLIP to OpenAI's, but for attention's three inputs, one there.
CLIP_NAMES = (
    (r"^vision_model\.", "visual."),
    (r"^text_model\.", ""),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_projection\.weight$", "text_projection"),
    (r"embeddings\.class_embedding$", "class_embedding"),
    (r"embeddings\.patch_embedding\.", "conv1."),
    (r"embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"embeddings\.token_embedding\.", "token_embedding."),
    (r"\.pre_layrnorm\.", ".ln_pre."),
    (r"\.post_layernorm\.", ".ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def load_pickscore(weights: Path, _: str) -> PublishedScorer:
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


def renamed(weights: Path, names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    tensors = {}
    for key, tensor in load_file(weights / "model.safetensors").items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        tensors[key] = tensor
    return tensors


def load_blipscore(weights: Path, _: str) -> PublishedScorer:
    """image-reward's; it reads sizes and tokenizer where ImageReward has them."""
    from ImageReward.models.BLIP import blip
    from ImageReward.models.BLIPScore import BLIPScore
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(str(weights))
    with mock.patch.object(blip.BertTokenizer, "from_pretrained", lambda _: tokenizer):
        scorer = BLIPScore(str(weights.parent / "ImageReward/med_config.json"))
    report = scorer.blip.load_state_dict(renamed(weights, BLIP_NAMES), strict=False)
    assert all("position_ids" in key for key in report.missing_keys), report
    assert all(key.startswith("itm_head.") for key in report.unexpected_keys), report
    return scored_by(scorer)


def openai_clip(weights: Path) -> nn.Module:
    """OpenAI's own network, with a twin's weights."""
    import clip.model

    config = json.loads((weights / "config.json").read_text())
    vision, text = config["vision_config"], config["text_config"]
    tensors = {
        key: t for key, t in renamed(weights, CLIP_NAMES).items() if "position_ids" not in key
    }
    for key in [key for key in tensors if ".self_attn.q_proj." in key]:
        parts = [tensors.pop(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        tensors[key.replace(".self_attn.q_proj.", ".attn.in_proj_")] = torch.cat(parts)
    for key in ("visual.proj", "text_projection"):
        tensors[key] = tensors[key].T
    model = clip.model.CLIP(
        config["projection_dim"],
        vision["image_size"],
        vision["num_hidden_layers"],
        vision["hidden_size"],
        vision["patch_size"],
        text["max_position_embeddings"],
        text["vocab_size"],
        text["hidden_size"],
        text["num_attention_heads"],
        text["num_hidden_layers"],
    )
    model.load_state_dict(tensors)
    return model.eval()


def load_clip_scorer(module: str, weights: Path) -> nn.Module:
    import clip
    from clip.clip import _transform

    model = openai_clip(weights)
    published = model, _transform(model.visual.input_resolution)
    with mock.patch.object(clip, "load", lambda *_, **__: published):
        return getattr(importlib.import_module(f"ImageReward.models.{module}"), module)("")


def load_clipscore(weights: Path, _: str) -> PublishedScorer:
    return scored_by(load_clip_scorer("CLIPScore", weights))


def load_aesthetic(weights: Path, _: str) -> PublishedScorer:
    scorer = load_clip_scorer("AestheticScore", weights)
    scorer.mlp.load_state_dict(torch.load(next(weights.glob("*.pth")), weights_only=True))
    return scored_by(scorer)


def scored_by(scorer: nn.Module) -> PublishedScorer:
    scorer.eval()
    return lambda image, prompt: float(scorer.score(prompt, str(image)))


def main() -> None:
    """Arguments: a script and its own; the environment's TWIN is the tiny OpenCLIP's configuration.

    The published networks are made as small as their twins, then the script runs.
    """
    sys.modules["turtle"] = mock.MagicMock()
    from hpsv2.src.open_clip import add_model_config
    from ImageReward.models.BLIP import blip_pretrain, vit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-twin.json"
        path.write_text(os.environ["TWIN"])
        add_model_config(path)
    judges.ARCHITECTURE = "tiny-twin"

    def create_vit(_: str, size: int, *rest: object) -> tuple:
        width = 128
        return vit.VisionTransformer(
            size, 16, embed_dim=width, depth=2, num_heads=2, mlp_ratio=2
        ), width

    blip_pretrain.create_vit = create_vit
    more = {"pickscore": load_pickscore, "blipscore": load_blipscore}
    more |= {"clipscore": load_clipscore, "aesthetic": load_aesthetic}
    del sys.argv[0]
    with mock.patch.dict(judges._SCORERS, more):
        runpy.run_path(sys.argv[0], run_name="__main__")


main()
