"""Generation: which image comes out depends on the prompt, not on the company it is made in."""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from rocm_core.errors import UserError
from rocm_core.evaluation import generate, iterate_images
from rocm_core.policies import add_adapter, save_lora
from rocm_core.prompts import Prompt
from rocm_core.provenance import package_versions, sha256_file, write_manifest

PROMPTS = [Prompt(f"p{i}", f"cat {i} é", "test") for i in range(7)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def lora(model, tmp_path_factory):
    unet = tiny.load_policy("consistency", model, 4, 3.0).network
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(unet)
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_lora(path, unet)
    return path


def run(model, output, prompts=PROMPTS, lora=None, batch_size=3, seed=1000):
    settings = tiny.generation_settings(model=model, seed=seed, batch_size=batch_size)
    generate(settings, prompts, lora, output, "f00d")
    return {p.id: np.asarray(Image.open(output / f"{p.id}.png")).astype(int) for p in prompts}


def test_every_prompt_has_its_image_an_index_line_and_a_hash(model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "stale.png").write_bytes(b"from an earlier run")
    run(model, output)
    images = sorted(path.name for path in output.glob("*.png"))
    assert images == [f"p{i}.png" for i in range(7)]
    rows = [json.loads(line) for line in (output / "index.jsonl").read_text().splitlines()]
    assert rows == [
        {"prompt_id": p.id, "text": p.text, "file": f"{p.id}.png"}
        | {"sha256": sha256_file(output / f"{p.id}.png")}
        for p in PROMPTS
    ]
    manifest = json.loads((output / "manifest.json").read_text())
    expected = {name: sha256_file(output / name) for name in [*images, "index.jsonl"]}
    assert manifest["outputs"] == expected and manifest["code"] == "f00d"
    assert manifest["settings"]["seed"] == 1000 and manifest["nfe"] == 7 * 4


@pytest.mark.parametrize("kind", [Path, str])
def test_images_name_the_adapter_and_the_prompts_that_they_were_made_from(
    model, lora, tmp_path, kind
):
    (tmp_path / "prompts.jsonl").write_text("…")
    settings = tiny.generation_settings(model=model)
    adapter, output, prompts = map(kind, (lora, tmp_path / "out", tmp_path / "prompts.jsonl"))
    generate(settings, PROMPTS[:1], adapter, output, "f00d", [prompts])
    inputs = json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]
    assert {Path(os.path.normpath(tmp_path / "out" / name)): inputs[name] for name in inputs} == {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (lora, tmp_path / "prompts.jsonl")
    }


def test_images_that_would_be_made_again_are_left_and_others_are_made(
    model, lora, tmp_path, monkeypatch
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("…")
    image = tmp_path / "out" / f"{PROMPTS[0].id}.png"

    def made(code="f00d", adapter=lora, **settings) -> bool:
        before = image.stat().st_mtime_ns if image.exists() else None
        asked = tiny.generation_settings(model=model, **settings)
        generate(asked, PROMPTS[:2], adapter, tmp_path / "out", code, [prompts])
        return image.stat().st_mtime_ns != before

    assert made() and not made()
    assert made(code="beef") and not made(code="beef")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    accepted = [{"code": "ab12"}]
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest | {"accepted": accepted}))
    assert not made(code="ab12") and not made(code="beef")
    assert made(seed=1) and made(adapter=None) and made(seed=1)
    prompts.write_text("… …")
    assert made(seed=1) and not made(seed=1)
    for damaged in ("p1.png", "index.jsonl", "manifest.json"):
        (tmp_path / "out" / damaged).write_text("{}")
        assert made(seed=1) and not made(seed=1)
    versions = package_versions() | {"torch": "0.0.0"}
    monkeypatch.setattr("rocm_core.provenance.manifests.package_versions", lambda: versions)
    assert made(seed=1)


def test_an_adapter_that_is_not_its_trainings_is_refused(model, lora, tmp_path):
    for name, other in (("a", b"..."), ("b", lora.read_bytes())):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lora.safetensors").write_bytes(other)
        write_manifest(
            folder / "manifest.json", settings={}, code="", outputs=[folder / "lora.safetensors"]
        )
    (tmp_path / "a/lora.safetensors").write_bytes(lora.read_bytes())
    run(model, tmp_path / "fits", PROMPTS[:1], tmp_path / "b/lora.safetensors")
    with pytest.raises(UserError, match="lora.safetensors is not the file that its manifest.json"):
        run(model, tmp_path / "out", PROMPTS[:1], tmp_path / "a/lora.safetensors")
    assert not (tmp_path / "out").exists()


def test_the_time_of_an_image_leaves_out_loading_and_the_first_batch(model, tmp_path, monkeypatch):
    import rocm_core.evaluation.images

    # A clock that each batch moves: the first by 100 s, the others by 3, 6 and 4 s.
    clock, costs = [0.0], [100.0, 3.0, 6.0, 4.0]
    made = iterate_images

    def slow(policy, prompts, *arguments):
        for batch in made(policy, prompts, *arguments):
            clock[0] += costs.pop(0)
            yield batch

    monkeypatch.setattr(rocm_core.evaluation.images, "iterate_images", slow)
    monkeypatch.setattr(rocm_core.evaluation.images.time, "perf_counter", lambda: clock[0])
    run(model, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["seconds_per_image"] == pytest.approx(2.0)  # of 3/3, 6/3 and 4/1 s
    assert manifest["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_an_image_is_the_same_in_every_batch_and_order(model, lora, tmp_path, batch_size):
    """To 1e-5 of the range as numbers; as 8-bit pixels only a rounding may tip over."""
    policy = tiny.load_policy("consistency", model, 4, 3.0)
    with torch.no_grad():
        noise = policy.noise(1000, [p.id for p in PROMPTS], "generation")
        embeddings = policy.encode_prompts([p.text for p in PROMPTS])
        together = policy.rollout(embeddings, noise).latents
        own = [{name: part[i, None] for name, part in embeddings.items()} for i in range(7)]
        alone = [policy.rollout(own[i], noise[i, None]).latents for i in range(7)]
        difference = policy.decode(together) - policy.decode(torch.cat(alone))
    assert difference.abs().max() <= 1e-5

    expected = run(model, tmp_path / "a", lora=lora, batch_size=3)
    found = run(model, tmp_path / "b", PROMPTS[::-1], lora, batch_size)
    pixels = np.stack([found[name] - expected[name] for name in expected])
    assert np.abs(pixels).max() <= 1 and (pixels != 0).mean() < 1e-3


def test_pixels_are_rounded_not_cut(model, tmp_path):
    found = run(model, tmp_path / "out")
    policy = tiny.load_policy("consistency", model, 4, 3.0)
    with torch.no_grad():
        noise = policy.noise(1000, [p.id for p in PROMPTS], "generation")
        latents = policy.rollout(policy.encode_prompts([p.text for p in PROMPTS]), noise).latents
        exact = policy.decode(latents).permute(0, 2, 3, 1).numpy() * 255
    pixels = np.stack([found[p.id] for p in PROMPTS])
    assert np.abs(pixels - exact).max() <= 0.5 + 1e-2


def test_seed_and_adapter_change_the_images(model, lora, tmp_path):
    base = run(model, tmp_path / "base")["p0"]
    assert np.abs(run(model, tmp_path / "seed", seed=1)["p0"] - base).max() > 5
    assert np.abs(run(model, tmp_path / "lora", lora=lora)["p0"] - base).max() > 5


def test_images_come_with_their_distance_to_the_reference(model, lora):
    from rocm_core.policies import load_lora

    policy = tiny.load_policy("consistency", model, 4, 3.0)
    for adapted in (False, True):
        if adapted:
            load_lora(policy.network, lora)
        batches = list(iterate_images(policy, PROMPTS, 1000, 4, reference="full"))
        assert [len(prompts) for prompts, _, _ in batches] == [4, 3]
        images = torch.cat([images for _, images, _ in batches])
        assert images.shape == (7, 3, 8, 8) and not images.requires_grad
        assert torch.allclose((images * 255).round(), images * 255, atol=1e-4)
        distances = torch.cat([t.squared_distances() for _, _, t in batches])
        assert distances.shape == (7, 3) and math.isfinite(distances.sum())
        assert (distances > 0).all() if adapted else (distances == 0).all()


def test_an_image_that_is_not_finite_is_not_drawn_as_black(model, tmp_path):
    policy = tiny.load_policy("consistency", model, 4, 3.0)
    decode = policy.decode
    policy.decode = lambda latents: (
        decode(latents) * torch.tensor([1.0, torch.nan])[:, None, None, None]
    )
    with pytest.raises(UserError, match=f"image of prompt {PROMPTS[1].id} is not finite"):
        next(iterate_images(policy, PROMPTS[:2], 1000, 2))


def test_bad_input_is_refused_before_anything_is_written(model, lora, tmp_path):
    with pytest.raises(UserError, match="no prompts"):
        run(model, tmp_path / "out", prompts=[])
    with pytest.raises(UserError, match="absent.safetensors does not exist"):
        run(model, tmp_path / "out", lora=tmp_path / "absent.safetensors")
    assert not (tmp_path / "out").exists()
