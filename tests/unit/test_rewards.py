"""Scorers against the models' own forward passes, on random weights in the published layouts."""

import json
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)

from rocm_core.errors import UserError
from rocm_core.provenance import files_in, sha256_file, write_json
from rocm_core.rewards import load_reward
from rocm_core.rewards.checkpoints import build
from rocm_core.rewards.preprocessing import Preprocessing
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import parse, render
from rocm_core.shapes.tokenizer import make_tokenizer

SIZE, TOKENS = 32, 12
MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)
LEARNED = ("hpsv2", "pickscore", "clipscore", "aesthetic", "blipscore", "imagereward")
PROMPTS = ["a small red circle", "", "a large blue ring " * 100, "naïve 🦊 星"]


def write_preprocessor(folder: Path, size) -> None:
    config = {"size": size, "resample": 3, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def stack(width: int) -> nn.Sequential:
    """The aesthetic head as LAION publishes it: Linear and Dropout in these places."""
    linear, drop = nn.Linear, nn.Dropout
    return nn.Sequential(
        *(linear(width, 20), drop(0.2), linear(20, 12), drop(0.2), linear(12, 10), drop(0.1)),
        *(linear(10, 8), linear(8, 1)),
    )


def write_head(path: Path, head: nn.Sequential) -> None:
    tensors = {f"layers.{name}": tensor for name, tensor in head.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def clip(tokenizer) -> CLIPModel:
    torch.manual_seed(0)
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small["num_attention_heads"] = 2
    text = {**small, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    vision = {**small, "image_size": SIZE, "patch_size": 8, "projection_dim": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=14)
    return spread(CLIPModel(config))


@pytest.fixture(scope="module")
def blip(tokenizer) -> BlipForImageTextRetrieval:
    torch.manual_seed(1)
    small = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "hidden_size": 16, "vocab_size": len(tokenizer), "is_decoder": True}
    text |= {"max_position_embeddings": TOKENS, "pad_token_id": tokenizer.pad_token_id}
    vision = {**small, "hidden_size": 24, "image_size": SIZE, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=10)
    return spread(BlipForImageTextRetrieval(config))


@pytest.fixture(scope="module")
def open_model(tokenizer) -> open_clip.CLIP:
    torch.manual_seed(2)
    return spread(open_clip.CLIP(**open_config(tokenizer)["model_cfg"]))


def open_config(tokenizer) -> dict:
    vision = {"image_size": SIZE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": TOKENS, "vocab_size": len(tokenizer), "width": 16, "heads": 2}
    text |= {"layers": 2, "pool_type": "eos", "eos_id": tokenizer.eos_token_id}
    model = {"embed_dim": 14, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}


def spread(model: nn.Module) -> nn.Module:
    """Weights large enough that no two inputs score alike."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def heads() -> dict[str, nn.Sequential]:
    torch.manual_seed(3)
    return {"aesthetic": stack(14).eval(), "imagereward": stack(16).eval()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer, clip, blip, open_model, heads) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scorers")
    made = {name: root / name for name in LEARNED}
    for name in ("pickscore", "clipscore", "aesthetic"):
        clip.save_pretrained(made[name])
        write_preprocessor(made[name], {"shortest_edge": SIZE})
    for name in ("blipscore", "imagereward"):
        blip.save_pretrained(made[name])
        write_preprocessor(made[name], {"height": SIZE, "width": SIZE})
    for name in ("pickscore", "clipscore", "blipscore", "imagereward"):
        tokenizer.save_pretrained(made[name])
    write_head(made["aesthetic"] / "sac+logos+ava1.pth", heads["aesthetic"])
    write_head(made["imagereward"] / "head.safetensors", heads["imagereward"])
    tokenizer.save_pretrained(made["hpsv2"] / "tokenizer")
    (made["hpsv2"] / "open_clip_config.json").write_text(json.dumps(open_config(tokenizer)))
    save_file(open_model.state_dict(), made["hpsv2"] / "open_clip_model.safetensors")
    list_files(made["aesthetic"])
    return made


def list_files(folder: Path) -> None:
    """A MANIFEST.json, without which a pickle is not opened."""
    write_json(
        folder / "MANIFEST.json", {name: sha256_file(folder / name) for name in files_in(folder)}
    )


@pytest.fixture(scope="module")
def expected(tokenizer, clip, blip, open_model, heads):
    """Scores from the models' own forward passes and the head's matrices."""

    def compute(name: str, images: Tensor) -> Tensor:
        pixels = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        limits = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
        tokens = tokenizer(PROMPTS, **limits, return_tensors="pt")
        if name == "hpsv2":
            image, text, _ = open_model(pixels, tokens.input_ids)
            return (image @ text.T).diag()
        if name in ("blipscore", "imagereward"):
            output = blip(**tokens, pixel_values=pixels, use_itm_head=name == "imagereward")
            if name == "blipscore":
                return output.itm_score.diag()
            raw = affine(heads[name], output.question_embeds[:, 0])
            return (raw - 0.16717362830052426) / 1.0333394966054072
        output = clip(**tokens, pixel_values=pixels)
        if name == "aesthetic":
            return affine(heads[name], output.image_embeds)
        logits = output.logits_per_image.diag()
        return logits if name == "pickscore" else logits / clip.logit_scale.exp()

    return compute


def affine(head: nn.Sequential, features: Tensor) -> Tensor:
    x = features.double().numpy()
    for layer in head:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().numpy()
    return torch.from_numpy(x[:, 0]).float()


def draw_images(count: int, size: int = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.25 + 0.5 * torch.rand(count, 3, size, size, generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", LEARNED)
def test_score_is_what_the_model_itself_computes(name, folders, expected):
    images = draw_images(len(PROMPTS))
    scores = load_reward(name, folders[name]).score(images, PROMPTS)
    assert scores.shape == (len(PROMPTS),) and scores.std() > 1e-3
    torch.testing.assert_close(scores, expected(name, images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_gradient_with_respect_to_the_image_equals_finite_differences(name, folders):
    reward = load_reward(name, folders[name], dtype=torch.float64)
    images = draw_images(2, size=40, dtype=torch.float64).requires_grad_()
    reward.score(images, PROMPTS[:2]).sum().backward()
    assert images.grad.isfinite().all() and (images.grad.flatten(1).abs().amax(1) > 0).all()
    assert not any(p.requires_grad for p in reward.parameters()) and not reward.training
    step, direction = 1e-5, draw_images(2, size=40, dtype=torch.float64).flip(0) - 0.5
    with torch.no_grad():
        ahead = reward.score(images + step * direction, PROMPTS[:2]).sum()
        behind = reward.score(images - step * direction, PROMPTS[:2]).sum()
    slope = (images.grad * direction).sum()
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_batch_and_order_do_not_matter(name, folders):
    images, reward = draw_images(len(PROMPTS)), load_reward(name, folders[name])
    batch = reward.score(images, PROMPTS)
    fresh = load_reward(name, folders[name])
    singles = [fresh.score(images[i : i + 1], PROMPTS[i : i + 1]) for i in (3, 1, 0, 2)]
    torch.testing.assert_close(torch.cat(singles), batch[[3, 1, 0, 2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hpsv2", "pickscore", "clipscore", "imagereward", "blipscore"])
def test_a_score_does_not_depend_by_a_bit_on_the_prompts_seen_before(name):
    """A resumed training has seen none of the prompts that the first attempt had."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a large red circle at the top", "a small blue ring left of a large green cross"]
    folder = Path("resources/shapes/scorers") / name
    first, resumed = load_reward(name, folder), load_reward(name, folder)
    first.score(images[:1], prompts[:1])
    assert torch.equal(first.score(images, prompts), resumed.score(images, prompts))


@pytest.mark.parametrize("name", LEARNED)
def test_a_prompt_is_encoded_once(name, folders, monkeypatch):
    reward, images = load_reward(name, folders[name]), draw_images(3)
    encode, seen = reward.encode_texts, []
    monkeypatch.setattr(
        reward, "encode_texts", lambda texts: (seen.extend(texts), encode(texts))[1]
    )
    first = reward.score(images, ["a", "b", "a"])
    images.requires_grad_()
    second = reward.score(images, ["a", "b", "a"])
    second.sum().backward()
    assert seen == ["a", "b"]
    torch.testing.assert_close(first, second.detach())


def test_half_precision_files_are_computed_in_float32(folders, clip, tmp_path):
    for file in folders["clipscore"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    halves = {name: tensor.half() for name, tensor in weights.items()}
    save_file(halves, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reward = load_reward("clipscore", tmp_path)
    assert {p.dtype for p in reward.parameters()} == {torch.float32}
    images = draw_images(4)
    full = load_reward("clipscore", folders["clipscore"]).score(images, PROMPTS)
    torch.testing.assert_close(reward.score(images, PROMPTS), full, atol=0.01, rtol=0)


def test_gold_is_the_judge_and_has_no_gradient():
    captions = ["a large red circle in the center on a plain gray background"] * 2
    images = torch.cat([render(parse(captions[:1]), 0), draw_images(1)])
    gold = load_reward("gold")
    assert not gold.differentiable
    assert torch.equal(gold.score(images.requires_grad_(), captions), judge(images, captions))
    with pytest.raises(UserError, match="scorers.gold"):
        load_reward("gold", Path("anywhere"))


@pytest.mark.parametrize("name", ["gold", "shapes-alignment"])
def test_who_knows_the_shapes_world_looks_at_images_of_any_size(name):
    """A rendering shown larger is the same to it; one shown smaller is blurred, yet far better than
    that of another caption."""
    captions = [
        "a large red circle in the center on a plain gray background",
        "a small blue square left of a large green triangle on a plain white background",
    ]
    images, reward = render(parse(captions), 0), load_reward(name)
    assert reward.score(images, captions).min() > 0.99
    larger = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert reward.score(larger, captions).min() > 0.9
    small = torch.nn.functional.avg_pool2d(images, 2)
    assert (reward.score(small, captions) > 2 * reward.score(small, captions[::-1])).all()


@pytest.mark.parametrize("size", [(64, 48), (20, 32), (512, 512)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_resize_follows_pil_within_rounding(fit, size):
    height, width = size
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    photo = coarse.resize((width, height), Image.Resampling.BICUBIC)
    target = {
        "crop": (SIZE * width // min(size), SIZE * height // min(size)),
        "stretch": (SIZE, SIZE),
        "pad": (round(SIZE * width / max(size)), round(SIZE * height / max(size))),
    }[fit]
    wanted = photo.resize(target, Image.Resampling.BICUBIC)
    left, top = (target[0] - SIZE) // 2, (target[1] - SIZE) // 2
    if fit == "pad":
        canvas = Image.new("RGB", (SIZE, SIZE))
        canvas.paste(wanted, ((SIZE - target[0]) // 2, (SIZE - target[1]) // 2))
        wanted = canvas
    else:
        wanted = wanted.crop((left, top, left + SIZE, top + SIZE))
    images = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255
    ours = Preprocessing(SIZE, (0, 0, 0), (1, 1, 1), fit)(images)[0].permute(1, 2, 0)
    difference = np.abs(ours.numpy() - np.array(wanted) / 255)
    assert difference.max() < 2 / 255


def test_images_of_the_right_size_are_only_normalised():
    images = draw_images(2)
    pixels = Preprocessing(SIZE, MEAN, STD)(images)
    wanted = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.equal(pixels, wanted)


class RunsCode:
    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


def spoil(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    key = "visual_projection.weight"
    if kind == "missing key":
        del tensors[key]
    elif kind == "wrong shape":
        tensors[key] = tensors[key][:3].clone()
    elif kind == "unknown key":
        tensors["surplus.weight"] = torch.zeros(2)
    elif kind in ("NaN", "-infinity"):
        tensors[key][1, 2] = float(kind)
    elif kind == "integers":
        tensors[key] = (100 * tensors[key]).to(torch.int8)
    save_file(tensors, weights, metadata={"format": "pt"})
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no preprocessor":
        (folder / "preprocessor_config.json").unlink()
    elif kind == "pickle with code":
        next(folder.glob("*.pth")).write_bytes(pickle.dumps(RunsCode(), protocol=2))
    elif kind == "truncated head":
        head = next(folder.glob("*.pth"))
        head.write_bytes(head.read_bytes()[:200])
    elif kind == "head of another width":
        write_head(next(folder.glob("*.pth")), stack(9))
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind.endswith(("the head", "no tensors")):
        head = next(folder.glob("*.pth"))
        held = torch.load(head, weights_only=True)
        last = max(key for key in held if key.endswith("bias"))
        changed = {"NaN": held[last] + float("nan"), "integers": held[last].long()}
        torch.save(held | {last: changed.get(kind.split()[0], "no tensor")}, head)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing key", "visual_projection.weight is missing"),
        ("wrong shape", "visual_projection.weight has shape"),
        ("unknown key", "surplus.weight is unknown"),
        ("NaN", "visual_projection.weight is not finite"),
        ("-infinity", "visual_projection.weight is not finite"),
        ("integers", "visual_projection.weight is of type I8"),
        ("NaN in the head", "is not finite"),
        ("integers in the head", "is of type int64"),
        ("head of no tensors", "does not map names to tensors"),
        ("truncated", "aesthetic"),
        ("no weights", "aesthetic"),
        ("broken config", "aesthetic"),
        ("no preprocessor", "preprocessor_config.json"),
        ("pickle with code", ".pth"),
        ("truncated head", ".pth"),
        ("head of another width", ".pth"),
    ],
)
def test_damaged_weights_end_in_one_sentence(kind, named, folders, tmp_path, monkeypatch):
    folder = tmp_path / "aesthetic"
    folder.mkdir()
    for file in folders["aesthetic"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spoil(folder, kind)
    list_files(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_reward("aesthetic", folder)
    assert named in str(caught.value) and "fetch" in str(caught.value)
    assert "\n" not in caught.value.args[0] and len(str(caught.value)) < 400
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["truncated", "missing key", "no tokenizer", "no checkpoint"])
def test_damaged_hpsv2_folder_ends_in_one_sentence(kind, folders, tmp_path):
    weights = tmp_path / "open_clip_model.safetensors"
    for file in folders["hpsv2"].rglob("*.*"):
        target = tmp_path / file.relative_to(folders["hpsv2"])
        target.parent.mkdir(exist_ok=True)
        if not (kind == "no tokenizer" and target.parent != tmp_path):
            target.write_bytes(file.read_bytes())
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "missing key":
        tensors = load_file(weights)
        del tensors["text_projection"]
        save_file(tensors, weights)
    elif kind == "no checkpoint":
        (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="fetch") as caught:
        load_reward("hpsv2", tmp_path)
    assert "\n" not in caught.value.args[0]


def test_a_module_that_is_to_be_filled_draws_nothing_at_random():
    def truncated():  # drawn again and again until it lies between -2 and 2
        layer = nn.Linear(3, 4)
        layer.weight.data.fill_(9.0)
        nn.init.trunc_normal_(layer.weight)
        return layer

    before = torch.get_rng_state()
    made = build(lambda: nn.Sequential(truncated(), nn.Embedding(5, 3), nn.BatchNorm1d(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert made[0].weight.eq(9.0).all()
    assert torch.equal(made[2].running_var, torch.ones(4))


def test_unknown_scorers_and_absent_folders_are_named(tmp_path):
    for name in ("hpsv3", "preprocessing"):
        with pytest.raises(UserError, match=name):
            load_reward(name, tmp_path)
    for name in LEARNED:
        with pytest.raises(UserError, match=f"scorers.{name}"):
            load_reward(name, None)
        with pytest.raises(UserError, match="nowhere"):
            load_reward(name, tmp_path / "nowhere")


def test_images_and_prompts_must_match(folders):
    reward = load_reward("clipscore", folders["clipscore"])
    for images in (draw_images(2), draw_images(1)[0], draw_images(1)[:, :1]):
        with pytest.raises(ValueError, match="do not match"):
            reward.score(images, ["a"])


def test_the_documented_new_file_is_a_new_scorer(tmp_path, monkeypatch):
    module = "rocm_core/rewards/redness.py"
    name = tiny.write_package(tmp_path, "documented_rewards", module)
    monkeypatch.syspath_prepend(tmp_path)
    redness = load_reward(name)
    images = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 1.0, 0.5]])
    images = images[:, :, None, None].expand(-1, -1, 4, 4).clone().requires_grad_()
    scores = redness.score(images, ["a", "b", "c"])
    assert scores.tolist() == [1.0, 0.0, -0.75]
    scores.sum().backward()
    assert redness.differentiable and (images.grad != 0).all()
