"""Base models load as they lie on the hub; damaged, they end in one sentence and nothing runs."""

import json
import pickle
import shutil
from pathlib import Path

import few_step
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from rocm_core.errors import UserError
from rocm_core.weights import files_of, record, table
from rocm_core.weights.catalogue import class_of

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
MODEL = "models/LCM_Dreamshaper_v7"
# How Stable Diffusion's files call the decoder's attention. Libraries now name it as the U-Net's.
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    folder = tiny.write_pipeline(root / MODEL)
    write_decoder(folder / "vae")
    return root


def write_decoder(folder: Path) -> None:
    """A VAE with attention, which tests that take many steps do without."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    AutoencoderKL(**config | {"mid_block_add_attention": True}).save_pretrained(folder)


@pytest.fixture
def place(written: Path, tmp_path: Path, monkeypatch) -> Path:
    """The pipeline's folder, seen from the one that weights.lock will be in."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path(MODEL)


def rewrite(file: Path, change) -> None:
    """Write a file of tensors again, with those that `change` makes of its own."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def as_on_the_hub(folder: Path) -> None:
    """Give tensors the names of the published files, which are older than the libraries."""

    def text(tensors):
        positions = {"embeddings.position_ids": torch.arange(12)[None]}
        return {f"text_model.{name}": tensor for name, tensor in (tensors | positions).items()}

    def vae(tensors):
        renamed = {}
        for name, tensor in tensors.items():
            for new, old in OLD_NAMES.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
            renamed[name] = tensor
        return renamed

    rewrite(folder / FILES["text_encoder"], text)
    rewrite(folder / FILES["vae"], vae)


def draw(folder: Path) -> torch.Tensor:
    policy = tiny.load_policy("consistency", str(folder), 4, 3.0)
    embeddings = policy.encode_prompts(["a cat", ""])
    with torch.no_grad():
        latents = policy.rollout(embeddings, policy.noise(0, ["a", "b"], "test")).latents
        return policy.decode(latents)


def test_the_names_of_published_files_give_the_same_images(place: Path) -> None:
    expected = draw(place)
    as_on_the_hub(place)
    assert any(".query." in name for name in load_file(place / FILES["vae"]))
    record([place])
    assert torch.equal(draw(place), expected)


@pytest.mark.parametrize("index", [path for path in table() if path.endswith("model_index.json")])
def test_the_table_names_the_files_that_are_read(index: str) -> None:
    folder = index.removesuffix("/model_index.json")
    pipeline = class_of(folder, "model_index.json")
    assert pipeline and f"{folder}/scheduler/scheduler_config.json" in table()
    for part in few_step.parts_of(pipeline):
        files = files_of(f"{folder}/{part}")
        name = "tokenizer_config" if part.startswith("tokenizer") else "config"
        assert f"{folder}/{part}/{name}.json" in files
        assert part.startswith("tokenizer") or any(f.endswith(".safetensors") for f in files)


class RunsCode:
    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


def damage(file: Path, kind: str) -> None:
    pickled = pickle.dumps(RunsCode(), protocol=2)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "pickle in its place":
        file.write_bytes(pickled)
    elif kind == "pickle beside":
        file.unlink()
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
            (file.parent / name).write_bytes(pickled)
    elif kind == "missing key":
        rewrite(file, lambda tensors: dict(sorted(tensors.items())[1:]))
    elif kind == "unknown key":
        rewrite(file, lambda tensors: tensors | {"surplus.weight": torch.zeros(2)})
    elif kind == "wrong shape":
        rewrite(file, lambda tensors: {name: t[:1].clone() for name, t in tensors.items()})


KINDS = {
    "truncated": "cannot be loaded",
    "pickle in its place": "cannot be loaded",
    "pickle beside": "cannot be loaded",
    "missing key": "is missing; fetch",
    "unknown key": "surplus.weight is unknown; fetch",
    "wrong shape": "has shape (1,",
}


def refusal(place: Path) -> str:
    with pytest.raises(UserError) as caught:
        tiny.load_policy("consistency", str(place), 4, 3.0)
    message = str(caught.value)
    assert "\n" not in caught.value.args[0] and len(message) < 400
    assert not Path("executed").exists()
    return message


@pytest.mark.parametrize("part", FILES)
def test_a_part_that_changed_since_it_was_recorded_is_not_opened(place: Path, part: str) -> None:
    record([place])
    damage(place / FILES[part], "pickle in its place")
    message = refusal(place)
    assert FILES[part] in message and "its sha256 is not that of weights.lock" in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", FILES)
def test_a_damaged_part_ends_in_one_sentence(place: Path, part: str, kind: str) -> None:
    """Even one that was recorded like that."""
    as_on_the_hub(place)
    damage(place / FILES[part], kind)
    record([place])
    message = refusal(place)
    assert f"{MODEL}/{part}" in message and KINDS[kind] in message
