"""Scoring of folders and snapshots against direct computations on the same files."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from rocm_core.errors import UserError
from rocm_core.evaluation import (
    evaluate_snapshots,
    generate,
    measure_folder,
    score_folder_published,
    scores as scoring,
)
from rocm_core.policies import add_adapter, load_lora, save_lora
from rocm_core.prompts import Prompt
from rocm_core.provenance import write_json, write_manifest
from rocm_core.rewards import Reward

TEXTS = {"00000": "a", "00001": "bbbb", "00002": "cc"}


class Redness(Reward):
    """Red minus blue, plus the length of the prompt."""

    def score(self, images, prompts):
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return (images[:, 0] - images[:, 2]).mean((1, 2)) + lengths


class Contrast(Reward):
    def score(self, images, prompts):
        return images.flatten(1).std(1, correction=0)


class Broken(Reward):
    def score(self, images, prompts):
        return torch.full((len(images),), torch.nan)


@pytest.fixture
def loaded(monkeypatch) -> list:
    """The scorers that were loaded, in order; `redness` has weights, `contrast` needs none."""
    calls: list = []
    made = {"redness": Redness, "contrast": Contrast, "broken": Broken}

    def load_reward(name, weights=None, device="cpu", dtype=None):
        calls.append((name, weights))
        return made[name]()

    monkeypatch.setattr(scoring, "load_reward", load_reward)
    return calls


@pytest.fixture
def samples(tmp_path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for identity, text in TEXTS.items():
        pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{identity}.png")
        row = {"prompt_id": identity, "text": text, "file": f"{identity}.png"}
        lines.append(json.dumps(row) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder


def read_rows(path: Path) -> dict[tuple[str, ...], float]:
    with open(path, newline="") as file:
        return {tuple(row[:-1]): float(row[-1]) for row in list(csv.reader(file))[1:]}


def direct_scores(file: Path, text: str) -> dict[str, float]:
    pixels = np.array(Image.open(file)).astype(float) / 255
    redness = pixels[..., 0].mean() - pixels[..., 2].mean() + len(text)
    return {"redness": redness, "contrast": pixels.std()}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_every_image_is_scored_by_every_scorer(batch_size, samples, tmp_path, loaded):
    (tmp_path / "weights").mkdir()
    scorers = {"redness": str(tmp_path / "weights"), "contrast": None}
    output = samples / "scores.csv"
    scoring.score_folder(scorers, samples, output, "ab12", batch_size)
    assert output.read_text().startswith("prompt_id,metric,value\n")
    rows = read_rows(output)
    assert len(rows) == 6
    for identity, text in TEXTS.items():
        for metric, value in direct_scores(samples / f"{identity}.png", text).items():
            assert rows[identity, metric] == pytest.approx(value, abs=1e-6)
    assert loaded == [("redness", tmp_path / "weights"), ("contrast", None)]
    manifest = json.loads((samples / "scores.manifest.json").read_text())
    assert manifest["code"] == "ab12" and manifest["settings"]["scorers"] == scorers
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    assert manifest["outputs"] == {"scores.csv": digest}


def test_scores_and_readouts_that_would_be_made_again_are_left(samples, tmp_path, loaded):
    output = samples / "scores.csv"

    def scored(code="ab12", metrics=("contrast",)) -> int:
        before = len(loaded)
        scoring.score_folder(dict.fromkeys(metrics), samples, output, code)
        return len(loaded) - before

    assert scored() == 1 and scored() == 0
    assert scored("cd34") == 1 and scored("cd34") == 0
    assert scored("cd34", ("contrast", "redness")) == 2
    output.write_text("damaged")
    assert scored("cd34", ("contrast", "redness")) == 2
    image = samples / "00001.png"
    Image.new("RGB", (5, 6)).save(image)
    assert scored("cd34", ("contrast", "redness")) == 2
    measured = samples / "readouts.csv"
    measure_folder(samples, measured, None, "ab12")
    first = measured.stat().st_mtime_ns
    measure_folder(samples, measured, None, "ab12")
    assert measured.stat().st_mtime_ns == first
    measure_folder(samples, measured, None, "cd34")
    assert measured.stat().st_mtime_ns != first


def test_values_survive_the_file_to_float32_precision(tmp_path):
    values = torch.rand(100, generator=torch.Generator().manual_seed(0)).tolist()
    rows = [(str(i), "metric", value) for i, value in enumerate(values)]
    scoring.write_scores(tmp_path / "scores.csv", ("prompt_id",), rows)
    read = torch.tensor(list(read_rows(tmp_path / "scores.csv").values()))
    assert torch.equal(read, torch.tensor(values))


def damage(folder: Path, kind: str) -> None:
    image, index = folder / "00001.png", folder / "index.jsonl"
    if kind == "missing image":
        image.unlink()
    elif kind == "truncated image":
        image.write_bytes(image.read_bytes()[:40])
    elif kind == "another size":
        Image.new("RGB", (5, 5)).save(image)
    elif kind == "broken line":
        index.write_text(index.read_text() + '{"prompt_id": "00003"}\n')
    elif kind == "no index":
        index.unlink()
    elif kind == "empty index":
        index.write_text("")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing image", "00001.png"),
        ("truncated image", "00001.png"),
        ("another size", "00001.png"),
        ("broken line", "index.jsonl:4"),
        ("no index", "index.jsonl"),
        ("empty index", "index.jsonl"),
    ],
)
def test_damaged_samples_are_refused_and_old_scores_kept(kind, named, samples, loaded):
    (samples / "scores.csv").write_text("old")
    damage(samples, kind)
    with pytest.raises(UserError, match=named):
        scoring.score_folder({"contrast": None}, samples, samples / "scores.csv", "ab12")
    assert (samples / "scores.csv").read_text() == "old"


@pytest.mark.parametrize("name", ["00001.png", "index.jsonl"])
def test_images_that_are_not_those_of_their_manifest_are_refused(name, samples, loaded):
    files = [*samples.iterdir()]
    write_manifest(samples / "manifest.json", settings={}, code="", outputs=files)
    scoring.score_folder({"contrast": None}, samples, samples / "scores.csv", "ab12")
    inputs = json.loads((samples / "scores.manifest.json").read_text())["inputs"]
    assert inputs == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    scores = (samples / "scores.csv").read_bytes()
    damaged = samples / name
    damaged.write_bytes(
        (samples / "00000.png").read_bytes()
        if "png" in name
        else (samples / name).read_bytes().replace(b"bbbb", b"bbb")
    )
    said = f"{name} is not the file that its manifest.json lists: restore it, or make it again"
    for measure in (
        lambda: scoring.score_folder({"contrast": None}, samples, samples / "scores.csv", "ab12"),
        lambda: measure_folder(samples, samples / "scores.csv", None, "ab12"),
        lambda: score_folder_published({}, samples, samples / "scores.csv", "ab12"),
    ):
        with pytest.raises(UserError, match=said):
            measure()
    assert (samples / "scores.csv").read_bytes() == scores


def test_scores_that_are_not_finite_are_refused(samples, loaded):
    with pytest.raises(UserError, match="broken is nan for 00000"):
        scoring.score_folder({"broken": None}, samples, samples / "scores.csv", "ab12")
    assert not (samples / "scores.csv").exists()


@pytest.fixture
def trained(tmp_path):
    """A tiny base, and two snapshots of an adapter whose names do not sort as numbers do."""
    model = str(tiny.write_pipeline(tmp_path / "base"))
    policy = tiny.load_policy("consistency", model, 3, 2.0)
    add_adapter(policy.network, 2, 4.0, tiny.TARGETS, seed=0)
    (tmp_path / "snapshots").mkdir()
    for step, size in ((5, 0.05), (10, 0.2)):
        tiny.perturb(policy.network, size, seed=step)
        save_lora(tmp_path / "snapshots" / f"step-{step}.safetensors", policy.network)
    return tiny.generation_settings(
        model=model, inference_steps=3, guidance_scale=2.0, seed=7, batch_size=2
    )


def test_the_base_and_every_snapshot_are_evaluated(trained, tmp_path, loaded):
    prompts = [Prompt(identity, text, "test") for identity, text in TEXTS.items()]
    snapshots, output = tmp_path / "snapshots", tmp_path / "evaluated"
    scorers = {"redness": None, "contrast": None}
    evaluate_snapshots(trained, scorers, prompts, snapshots, output, "cd34")
    assert loaded == [("redness", None), ("contrast", None)]
    assert (output / "scores.csv").read_text().startswith("step,prompt_id,metric,value\n")
    rows = read_rows(output / "scores.csv")
    assert len(rows) == 3 * 3 * 3
    policy = tiny.load_policy("consistency", trained.model, 3, 2.0)
    for step in (0, 5, 10):
        lora = snapshots / f"step-{step}.safetensors" if step else None
        generate(trained, prompts, lora, tmp_path / f"direct-{step}", "cd34")
        if lora:
            load_lora(policy.network, lora)
        for prompt in prompts:
            file = output / f"step-{step}" / f"{prompt.id}.png"
            direct = tmp_path / f"direct-{step}" / f"{prompt.id}.png"
            assert np.array_equal(np.array(Image.open(file)), np.array(Image.open(direct)))
            for metric, value in direct_scores(file, prompt.text).items():
                assert rows[str(step), prompt.id, metric] == pytest.approx(value, abs=1e-6)
            distance = rows[str(step), prompt.id, "squared_distance"]
            assert distance == pytest.approx(direct_distance(policy, prompt), rel=1e-4)
            assert (distance > 0) == bool(step)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["settings"] == trained.to_dict() | {"scorers": scorers}
    assert manifest["code"] == "cd34" and len(manifest["outputs"]) == 1 + 9
    assert manifest["inputs"] == {
        f"../snapshots/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in snapshots.iterdir()
    }


def test_images_of_another_evaluation_are_removed(trained, tmp_path, loaded):
    (tmp_path / "evaluated/step-7").mkdir(parents=True)
    (tmp_path / "evaluated/step-7/00000.png").write_bytes(b"of another snapshot")
    prompts = [Prompt("00000", "a", "test")]
    folders = tmp_path / "snapshots", tmp_path / "evaluated"
    evaluate_snapshots(trained, {"contrast": None}, prompts, *folders, "cd34")
    assert sorted(folder.name for folder in (tmp_path / "evaluated").glob("step-*")) == [
        *("step-0", "step-10", "step-5")
    ]


def test_a_snapshot_that_is_not_its_trainings_is_refused(trained, tmp_path, loaded):
    write_json(tmp_path / "manifest.json", {"outputs": {"snapshots/step-5.safetensors": "0" * 64}})
    prompts = [Prompt("00000", "a", "test")]
    with pytest.raises(
        UserError, match="step-5.safetensors is not the file that its manifest.json"
    ):
        evaluate_snapshots(
            trained, {}, prompts, tmp_path / "snapshots", tmp_path / "evaluated", "cd34"
        )
    assert not (tmp_path / "evaluated").exists()


@torch.no_grad()
def direct_distance(policy, prompt: Prompt) -> float:
    embeddings = policy.encode_prompts([prompt.text])
    noise = policy.noise(7, [prompt.id], "generation")
    total = 0.0
    for step in policy.rollout(embeddings, noise, "full").transitions:
        ratio = (step.mean - step.reference_mean).numpy().astype(float) / float(step.std)
        total += float((ratio**2).sum())
    return total


def test_an_evaluation_of_snapshots_needs_some(trained, tmp_path, loaded):
    (tmp_path / "empty").mkdir()
    prompts = [Prompt("00000", "a", "test")]
    with pytest.raises(UserError, match="empty holds no snapshot"):
        evaluate_snapshots(trained, {}, prompts, tmp_path / "empty", tmp_path / "out", "cd34")
