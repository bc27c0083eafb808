"""The paper's scorers load the files as they lie on the hub, and nothing but those recorded."""

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import twins
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessorPil

from rocm_core.errors import UserError
from rocm_core.rewards import hpsv2, load_reward
from rocm_core.rewards.checkpoints import load_tokenizer
from rocm_core.rewards.preprocessing import Preprocessing
from rocm_core.weights import record

PROMPTS = ["a cat", "", "a red cube " * 100, "狐 🦊 naïve", "Ночь, <b>café</b>", "نجمة 👩‍🚀"]
PICKLES = twins.PICKLES
FILES = PICKLES | {
    name: twins.FOLDERS[name] / "model.safetensors"
    for name in ("pickscore", "clipscore", "clipscore_hessel", "blipscore")
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Tiny twins of all scorers in the hub's layouts, recorded in weights.lock."""
    root = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        twins.write_all()
        record([twins.ROOT])
    return root


@pytest.fixture(autouse=True)
def place(written: Path, tmp_path: Path, monkeypatch) -> None:
    """Each test runs beside its own copy of the twins."""
    shutil.copytree(written, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)


def images(size: tuple[int, int]) -> Tensor:
    return torch.rand(len(PROMPTS), 3, *size, generator=torch.Generator().manual_seed(0))


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (twins.MEAN, twins.STD))
    return (pixels - mean) / std


@pytest.mark.parametrize("name", twins.FOLDERS)
def test_a_scorer_loads_the_hubs_layout(name: str) -> None:
    pixels = images((48, 40)).requires_grad_()
    scores = load_reward(name, twins.FOLDERS[name]).score(pixels, PROMPTS)
    assert scores.isfinite().all() and scores.std() > 1e-4
    scores.sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all() and pixels.grad.any()


@pytest.mark.parametrize("name", twins.FOLDERS)
def test_its_gradient_equals_finite_differences(name: str) -> None:
    reward = load_reward(name, twins.FOLDERS[name], dtype=torch.float64)
    pixels = (0.25 + images((48, 40)).double() / 2).requires_grad_()
    reward.score(pixels, PROMPTS).sum().backward()
    step, direction = 1e-5, images((48, 40)).double().flip(0) - 0.5
    with torch.no_grad():
        ahead, behind = (reward.score(pixels + s * direction, PROMPTS).sum() for s in (step, -step))
    assert pixels.grad is not None
    slope = (pixels.grad * direction).sum()
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-9)


def test_hpsv2_is_open_clips_own_score() -> None:
    model = open_clip.CLIP(**twins.open_clip_config())
    model.load_state_dict(torch.load(PICKLES["hpsv2"], weights_only=True)["state_dict"])
    pixels = images((twins.SIZE, twins.SIZE))
    tokens = open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
    with torch.no_grad():
        image, text, _ = model.eval()(normalised(pixels), tokens)
    scores = load_reward("hpsv2", twins.FOLDERS["hpsv2"]).score(pixels, PROMPTS)
    torch.testing.assert_close(scores, (image * text).sum(-1), atol=2e-5, rtol=1e-5)


def as_tensor(photo: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255


@torch.no_grad()
@pytest.mark.parametrize("size", [224, 512, 768])
def test_pickscore_is_the_score_of_its_model_cards_example(size: int) -> None:
    """With transformers' own model, tokenizer and PIL's preprocessing of the processor."""
    folder = twins.FOLDERS["pickscore"]
    model = AutoModel.from_pretrained(folder)
    limits = {"padding": True, "truncation": True, "max_length": 77}
    photos = [twins.photograph(size, seed) for seed in range(len(PROMPTS))]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=photos, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, **limits, return_tensors="pt")
    image = model.get_image_features(**pixels).pooler_output
    text = model.get_text_features(**tokens).pooler_output
    image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
    wanted = model.logit_scale.exp() * (image * text).sum(-1)
    reward = load_reward("pickscore", folder)
    scores = reward.measure(torch.stack([*map(as_tensor, photos)]), PROMPTS)
    assert wanted.std() > 0.1
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [512, 768])
@pytest.mark.parametrize("name", sorted({*twins.FOLDERS} - {"clipscore_hessel"}))  # cut at 0
def test_training_and_measuring_score_a_photograph_alike(name: str, size: int) -> None:
    """Training resizes tensors, for gradients; measuring as published, most with PIL. What PIL
    rounds is a few per cent of how scores differ over photographs; bfloat16 can cost more."""
    photos = torch.stack([as_tensor(twins.photograph(size, seed)) for seed in range(8)])
    prompts = ["a cat"] * len(photos)
    reward = load_reward(name, twins.FOLDERS[name])
    measured = reward.measure(photos, prompts)

    def share(scores: Tensor) -> float:
        return float((scores - measured).square().mean().sqrt() / measured.std())

    with torch.no_grad():
        trained = share(reward.score(photos, prompts))
    assert trained < 0.04 and (trained == 0) == name.startswith("hpsv2")
    low = load_reward(name, twins.FOLDERS[name], dtype=torch.bfloat16)
    assert share(low.measure(photos, prompts)) < 0.08


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("size", [512, 768])
def test_tensors_are_resized_like_pil_resizes_a_photograph(size: int, fit: str) -> None:
    preprocessing = Preprocessing(224, (0, 0, 0), (1, 1, 1), fit)
    photos = torch.stack([as_tensor(twins.photograph(size, seed)) for seed in range(3)])
    difference = (preprocessing(photos) - preprocessing.published(photos)).abs() * 255
    assert difference.max() < 1.1 and difference.mean() < 0.3


def test_clips_tokenizer_of_the_hub_gives_open_clips_ids() -> None:
    tokens = load_tokenizer(twins.FOLDERS["pickscore"])(PROMPTS, truncation=True, max_length=77)
    for ids, wanted in zip(tokens.input_ids, open_clip.tokenize(PROMPTS), strict=True):
        assert ids == wanted[: len(ids)].tolist() and not wanted[len(ids) :].any()


def test_aesthetic_is_the_heads_published_definition() -> None:
    state = torch.load(PICKLES["aesthetic"], weights_only=True)
    clip = load_reward("clipscore", twins.FOLDERS["clipscore"])
    pixels = images((twins.SIZE, twins.SIZE))
    with torch.no_grad():
        embedding = clip.encode_images(normalised(pixels))
    x = (embedding / embedding.norm(dim=-1, keepdim=True)).double()
    for index in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{index}.weight"].double().T + state[f"layers.{index}.bias"].double()
    scores = load_reward("aesthetic", twins.FOLDERS["aesthetic"]).score(pixels, PROMPTS)
    torch.testing.assert_close(scores, x[:, 0].float(), atol=1e-4, rtol=1e-5)


def test_imagereward_is_the_published_networks_score() -> None:
    """Against the network written out with the names of its own file."""
    state = torch.load(PICKLES["imagereward"], weights_only=True)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            weights = weights.masked_fill(mask[:, None, None] == 0, -math.inf)
        return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def see(pixels: Tensor) -> Tensor:
        root = "blip.visual_encoder"
        kernel = state[f"{root}.patch_embed.proj.weight"]
        x = F.conv2d(pixels, kernel, state[f"{root}.patch_embed.proj.bias"], stride=16)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([state[f"{root}.cls_token"].expand(len(x), -1, -1), x], 1)
        x = x + state[f"{root}.pos_embed"]
        for index in range(2):
            block = f"{root}.blocks.{index}"
            qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6))
            x = x + linear(f"{block}.attn.proj", attend(*qkv.chunk(3, -1), twins.WIDTH // 64))
            hidden = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6)))
            x = x + linear(f"{block}.mlp.fc2", hidden)
        return norm(f"{root}.norm", x, 1e-6)

    def read(ids: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        root = "blip.text_encoder"
        x = state[f"{root}.embeddings.word_embeddings.weight"][ids]
        x = x + state[f"{root}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = norm(f"{root}.embeddings.LayerNorm", x, 1e-12)
        for index in range(2):
            layer = f"{root}.encoder.layer.{index}"
            for name, source in (("attention", None), ("crossattention", seen)):
                place = f"{layer}.{name}"
                other = x if source is None else source
                q = linear(f"{place}.self.query", x)
                k, v = (linear(f"{place}.self.{part}", other) for part in ("key", "value"))
                out = attend(q, k, v, 2, mask if source is None else None)
                x = norm(
                    f"{place}.output.LayerNorm", x + linear(f"{place}.output.dense", out), 1e-12
                )
            hidden = F.gelu(linear(f"{layer}.intermediate.dense", x))
            x = norm(
                f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", hidden), 1e-12
            )
        return x[:, 0]

    tokenizer = load_tokenizer(twins.FOLDERS["imagereward"])
    limits = {"padding": "max_length", "truncation": True, "max_length": 35}
    tokens = tokenizer(PROMPTS, **limits, return_tensors="pt")
    pixels = images((twins.SIZE, twins.SIZE))
    with torch.no_grad():
        x = read(tokens.input_ids, tokens.attention_mask, see(normalised(pixels)))
        for index in (0, 2, 4, 6, 7):
            x = linear(f"mlp.layers.{index}", x)
    wanted = (x[:, 0] - 0.16717362830052426) / 1.0333394966054072
    scores = load_reward("imagereward", twins.FOLDERS["imagereward"]).score(pixels, PROMPTS)
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-5)


def test_pickscore_loads_from_a_recorded_bin() -> None:
    folder = twins.FOLDERS["pickscore"]
    before = load_reward("pickscore", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    Path("weights.lock").unlink()
    assert "pytorch_model.bin is a pickle that no weights.lock" in refusal("pickscore")
    record([folder])
    after = load_reward("pickscore", folder)
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))
    # Where the weights lie in memory decides the last bits of a product.
    scores = [reward.score(images((48, 48)), PROMPTS) for reward in (before, after)]
    torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-6)


class RunsCode:
    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_reward(name, twins.FOLDERS[name])
    message = str(caught.value)
    assert "\n" not in caught.value.args[0] and len(message) < 400
    assert not Path("executed").exists()
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_since_it_was_recorded_is_not_opened(name: str) -> None:
    FILES[name].write_bytes(pickle.dumps(RunsCode(), protocol=2))
    assert "its sha256 is not that of weights.lock" in refusal(name)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_nobody_recorded_is_not_opened(name: str) -> None:
    lock = json.loads(Path("weights.lock").read_text())
    for path in [path for path in lock if Path(path).parent == PICKLES[name].parent]:
        del lock[path]
    Path("weights.lock").write_text(json.dumps(lock))
    assert f"--record {PICKLES[name]}" in refusal(name)


@pytest.mark.parametrize("kind", ["code", "truncated", "a key renamed", "NaN", "integers"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_ends_in_one_sentence(name: str, kind: str) -> None:
    """Even one that was recorded like that."""
    file = FILES[name]
    if kind == "code":
        file.write_bytes(pickle.dumps(RunsCode(), protocol=2))
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    else:
        change_a_tensor(file, kind)
    Path("weights.lock").unlink()
    record([twins.ROOT])
    message = refusal(name)
    place = file if name in PICKLES else file.parent  # transformers reads the whole folder
    assert str(place) in message and "fetch" in message
    assert (kind == "a key renamed") == ("does not fit" in message or "holds no" in message)
    assert (kind == "NaN") == ("is not finite" in message)
    assert (kind == "integers") == ("is of type" in message)


def change_a_tensor(file: Path, kind: str) -> None:
    safe = file.suffix == ".safetensors"
    checkpoint = load_file(file) if safe else torch.load(file, weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    key = next(key for key in state if key.endswith("weight"))
    if kind == "a key renamed":
        state[f"{key}_other"] = state.pop(key)
    elif kind == "NaN":
        state[key][..., -1] = float("nan")
    else:
        state[key] = state[key].int()
    if safe:
        save_file(state, file, metadata={"format": "pt"})
    else:
        torch.save(checkpoint, file)


@pytest.mark.parametrize("text", [None, "{", '{"hidden_size": 24}'])
def test_a_missing_or_broken_med_config_is_named(text: str | None) -> None:
    path = twins.FOLDERS["imagereward"] / "med_config.json"
    path.unlink()
    Path("weights.lock").unlink()
    if text is not None:
        path.write_text(text)
    record([twins.ROOT])
    assert f"{path} is not a configuration of MED" in refusal("imagereward")
