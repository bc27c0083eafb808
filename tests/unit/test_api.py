"""The library from outside: its names, a reward that is a function, and the package's facts."""

import re
import tomllib

import pytest
import torch
from checkout import ROOT

import rocm_core
from rocm_core.errors import UserError

EXTRAS = {"workflow": "requirements", "trackers": "trackers", "crate": "crate", "docs": "docs"}


def test_every_name_at_the_top_exists_and_is_on_the_page_of_the_api():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    shown = {target.rpartition(".")[2] for target in re.findall(r"^::: (\S+)$", page, re.M)}
    assert shown == set(rocm_core.__all__)
    for name in rocm_core.__all__:
        assert getattr(rocm_core, name).__doc__, name


@pytest.fixture
def settings(model):
    """Of ROCM, with nothing but what has no default."""
    return rocm_core.TrainingSettings(
        reward="mine",
        model=model,
        inference_steps=2,
        guidance_scale=4.0,
        beta=0.0,
        iterations=3,
        learning_rate=0.01,
        lora_targets=("to_q",),
    )


def test_a_function_is_a_reward_and_paths_and_prompts_are_texts(settings, tmp_path):
    seen, scored = [], []

    def brightness(images, prompts):
        scored.append((images.shape, list(prompts)))
        return images.mean((1, 2, 3))

    output = str(tmp_path / "out")
    rocm_core.train(settings, ["cat", "dog"], output, reward=brightness, on_step=seen.append)
    assert [row["step"] for row in seen] == [1, 2, 3]
    assert {shape for shape, _ in scored} == {(1, 3, 8, 8)}
    assert {prompt for _, prompts in scored for prompt in prompts} == {"cat", "dog"}
    assert (tmp_path / "out/lora.safetensors").exists()
    assert not (tmp_path / "out.state").exists()
    assert "mine" in (tmp_path / "out/manifest.json").read_text()


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (lambda images, prompts: 1.0, "returns a float: return a tensor of 1 scores"),
        (lambda images, prompts: images.mean(), "gives scores of shape () for 1 images"),
        (lambda images, prompts: images.mean((2, 3)), "gives scores of shape (1, 3) for 1 images"),
        (lambda images, prompts: torch.ones(1).long(), "gives scores of type torch.int64"),
        (
            lambda images, prompts: torch.ones(1, device="meta"),
            "gives scores on meta for images on",
        ),
        (lambda images, prompts: images.detach().mean((1, 2, 3)), "passes no gradient"),
    ],
)
def test_the_first_scores_of_a_reward_of_ones_own_are_checked(settings, tmp_path, reward, sentence):
    with pytest.raises(UserError) as refused:
        rocm_core.train(settings, ["cat"], tmp_path / "out", reward=reward)
    assert str(refused.value).startswith("the reward mine ") and sentence in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_policy_gradient_needs_no_gradient_of_the_reward(settings, tmp_path):
    ppo = rocm_core.load_settings(
        settings.to_dict() | {"algorithm": "ppo", "iterations": 1, "batch_size": 2}
    )
    scores = torch.tensor([0.0, 1.0])
    rocm_core.train(ppo, ["cat"], tmp_path / "out", reward=lambda images, prompts: scores)
    assert (tmp_path / "out/lora.safetensors").exists()


def test_what_the_package_needs_is_what_the_lock_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def named(requirements):
        return {re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") for line in requirements}

    def pinned(*locks):
        text = "".join((ROOT / f"envs/{lock}.txt").read_text() for lock in locks)
        return {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", text, re.M)}

    main = pinned("torch", "requirements")
    assert named(project["dependencies"]) <= main
    for extra, lock in EXTRAS.items():
        assert named(project["optional-dependencies"][extra]) <= main | pinned(lock), extra
    for line in project["dependencies"]:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+", line), line


def test_the_command_lists_its_commands_and_refuses_others(monkeypatch, capsys):
    from rocm_core import __main__ as command

    monkeypatch.setattr("sys.argv", ["rocm-core", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    said = capsys.readouterr().out
    wanted = {"cells", "verify", "preflight", "watch", "train", "publish", "crate", "weights"}
    assert wanted <= set(re.findall(r"^  ([a-z_]+) +\S", said, re.M)) == {*command.names()}
    monkeypatch.setattr("sys.argv", ["rocm-core"])  # alone it says what it can do
    assert command.main() == 0 and capsys.readouterr().out == said
    monkeypatch.setattr("sys.argv", ["rocm-core", "cells", "--configfile", "config/few-step.yaml"])
    command.main()
    assert capsys.readouterr().out.endswith("15 cells\n")
    monkeypatch.setattr(command, "ROOT", ROOT / "docs")  # as in a wheel
    for name in ("accept", "crate", "verify"):
        monkeypatch.setattr("sys.argv", ["rocm-core", name, "--configfile", "config/demo.yaml"])
        with pytest.raises(UserError, match=f"{name} needs .*: run it in a clone of"):
            command.main()
    monkeypatch.setattr("sys.argv", ["rocm-core", "launch"])
    with pytest.raises(SystemExit):
        command.main()
    assert "invalid choice: 'launch'" in capsys.readouterr().err


def test_one_cell_is_trained_without_snakemake_and_an_unknown_one_is_named(monkeypatch, capsys):
    from rocm_core.commands import train as command

    words = ["train", "--configfile", "config/demo.yaml", "--output", "/nowhere", "--cell"]
    monkeypatch.setattr("sys.argv", [*words, "hpsv2/rocm-kll/seed-0"])
    with pytest.raises(UserError, match=r"is not a cell of config/demo\.yaml; did you mean hpsv2/"):
        command.main()
    called = {}
    monkeypatch.setattr("rocm_core.training.train", lambda *a, **k: called.update(a=a, k=k))
    monkeypatch.setattr("sys.argv", [*words, "hpsv2/rocm-kl/seed-0"])
    command.main()
    settings, prompts, output = called["a"]
    assert (settings.reward, settings.divergence, str(output)) == ("hpsv2", "kl", "/nowhere")
    assert len(prompts) == 2048 and str(called["k"]["progress"].files.folder) == "/nowhere.run"
    # What a state of other code or other weights is refused by.
    told = [called["k"]["fingerprint"]]
    for name, value in (("training_code", "other code"), ("digest_of_all", "other weights")):
        with monkeypatch.context() as patch:
            patch.setattr(command, name, lambda *given, value=value: value)
            command.main()
        told.append(called["k"]["fingerprint"])
    monkeypatch.setattr("sys.argv", [*words, "hpsv2/rocm-js/seed-0"])
    command.main()
    assert len({*told, called["k"]["fingerprint"]}) == 4
    for config, cell in (("shapes", "hpsv2/rocm-kl"), ("contest", "cautious/rocm-none")):
        words[2] = f"config/{config}.yaml"
        monkeypatch.setattr("sys.argv", [*words, f"{cell}/seed-0"])
        with pytest.raises(UserError, match=f"snakemake results/{config}/cells/{cell}/seed-0/"):
            command.main()
