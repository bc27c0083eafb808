"""The training job: reproducible, resumable bit for bit, and careful with what it has."""

import csv
import hashlib
import io
import json
import math
import os
import pydoc
import shutil
import signal
import subprocess
import time

import pytest
import tiny
import torch

import rocm_core.training.job
import rocm_core.training.trainer
from rocm_core.errors import UserError
from rocm_core.jobs import INTERRUPTED
from rocm_core.provenance import sha256_file
from rocm_core.training import train


@pytest.fixture
def run(model, reward, tmp_path, monkeypatch):
    """Train in folders of the given name; returns the output folder, None if it was interrupted."""
    monkeypatch.setattr("rocm_core.training.job.SAVE_SECONDS", 1e9)  # however slow the machine

    def run(
        name="run",
        stop_after=None,
        fingerprint="f00d",
        prompts=tiny.PROMPTS,
        keep_state=False,
        **changes,
    ):
        output, settings = tmp_path / name, tiny.settings(model=model, **changes)
        state = tmp_path / f"{name}-state"
        try:
            train(settings, prompts, output, state, fingerprint, stop_after, keep_state)
        except SystemExit as leaving:
            assert leaving.code == INTERRUPTED
            return None
        return output

    return run


def lora(folder):
    return (folder / "lora.safetensors").read_bytes()


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_results_and_no_state(run, tmp_path):
    output = run(divergence="kl", beta=0.01, snapshot_every=4, snapshot_at=(1, 4))
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    snapshots = [f"snapshots/step-{step}.safetensors" for step in (1, 4, 6)]
    assert files == ["history.csv", "lora.safetensors", "manifest.json", *snapshots]
    assert (output / snapshots[-1]).read_bytes() == lora(output)
    assert not (tmp_path / "run-state").exists()

    manifest = json.loads((output / "manifest.json").read_text())
    expected = {name: sha256_file(output / name) for name in files if name != "manifest.json"}
    assert manifest["outputs"] == expected
    assert manifest["code"] == "f00d" and manifest["beta"] == 0.01 and manifest["attempts"] == 1
    assert manifest["timesteps"] == [999, 679, 339] and manifest["precision"] == "float32"

    rows = history(output)
    assert list(rows[0]) == [
        *("step", "reward", "loss", "divergence", "squared_distance"),
        *("squared_distance_3", "squared_distance_2", "gradient_norm", "learning_rate"),
        *("training_seconds", "reward_queries", "nfe", "peak_memory_gib"),
    ]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [int(row["reward_queries"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    assert int(rows[-1]["nfe"]) == 6 * 2 * (3 + 2)
    for row in rows:
        parts = float(row["squared_distance_3"]) + float(row["squared_distance_2"])
        assert float(row["squared_distance"]) == pytest.approx(parts)
        assert float(row["divergence"]) == pytest.approx(parts / 2, rel=1e-5)
        loss = -float(row["reward"]) + 0.01 * float(row["divergence"])
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-5)


def test_a_state_that_is_kept_gives_the_same_results_again_without_training(run, reward, tmp_path):
    once = run(snapshot_every=4, keep_state=True)
    files = {path: path.read_bytes() for path in once.rglob("*.safetensors")}
    shutil.rmtree(once)
    reward.score = None  # is not asked
    again = run(snapshot_every=4, keep_state=True)
    assert {path: path.read_bytes() for path in again.rglob("*.safetensors")} == files
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["attempts"] == 2 and manifest["resumed_after"] == [0, 6]


def test_without_a_divergence_no_distance_is_claimed(run):
    assert {row["squared_distance_2"] for row in history(run())} == {""}


def test_two_runs_give_the_same_bytes_and_another_seed_others(run):
    first, again, other = run("first"), run("again"), run("other", seed=1)
    assert lora(first) == lora(again) != lora(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"divergence": "kl", "beta": 0.01, "snapshot_every": 2},
        pytest.param(
            {"divergence": "js_sampled", "beta": 0.1, "reference_gradient": "stop"},
            marks=pytest.mark.faults,
        ),
        pytest.param(
            {"ema_decay": 0.9, "accumulation_steps": 2, "batch_size": 1}, marks=pytest.mark.faults
        ),
        pytest.param(
            {"learning_rate_schedule": "linear", "warmup_steps": 3, "memory": 0.001}
            | {"learning_rate_end": 0.5},
            marks=pytest.mark.faults,
        ),
        {"divergence": "kl", "beta": {"target": 0.01, "start": 1.0}},
        pytest.param(
            {"algorithm": "ppo", "prompt_buffer": 4, "prompt_buffer_minimum": 2}
            | {"horizon": "released", "inner_epochs": 2, "ratio_clip": 0.1},
            marks=pytest.mark.faults,
        ),
        {"algorithm": "ppo", "images_per_prompt": 2, "batch_size": 1, "accumulation_steps": 4}
        | {"updates_per_iteration": 4, "prompt_buffer_minimum": 2, "ratio_clip": 0.1},
        {"algorithm": "dpok", "divergence": "js_sampled", "beta": 0.1, "value_updates": 2},
        {"algorithm": "d3po", "divergence": "kl", "beta": 1.0, "ratio_clip": 0.1}
        | {"images_per_prompt": 2},
        pytest.param(
            {"divergence": "kl", "beta": 0.1, "reference_reset": 2}, marks=pytest.mark.faults
        ),
        pytest.param(
            {"divergence": "kl", "beta": 0.1, "reference_decay": 0.5, "algorithm": "ppo"},
            marks=pytest.mark.faults,
        ),
        pytest.param({"truncate": [1, 3], "stop_input": True}, marks=pytest.mark.faults),
        pytest.param({"truncate": "last", "low_variance": 2}, marks=pytest.mark.faults),
        {"algorithm": "grpo", "divergence": "kl", "beta": 0.1, "images_per_prompt": 2},
        {"algorithm": "hybrid", "images_per_prompt": 2, "inner_epochs": 2},
        {"algorithm": "rebel", "images_per_prompt": 2, "inner_epochs": 2, "prompt_buffer": 4}
        | {"prompt_buffer_minimum": 2},
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(run, changes):
    whole = run("whole", **changes)
    assert run("parts", stop_after=1, **changes) is None
    assert run("parts", stop_after=3, **changes) is None
    parts = run("parts", **changes)
    assert lora(parts) == lora(whole)
    snapshots = sorted(path.name for path in whole.glob("snapshots/*"))
    for name in snapshots:
        assert (parts / "snapshots" / name).read_bytes() == (
            whole / "snapshots" / name
        ).read_bytes()
    timed = ("training_seconds", "peak_memory_gib")
    for ours, theirs in zip(history(parts), history(whole), strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }
    seconds = [float(row["training_seconds"]) for row in history(parts)]
    assert seconds == sorted(seconds)
    manifest = json.loads((parts / "manifest.json").read_text())
    assert manifest["attempts"] == 3 and manifest["resumed_after"] == [0, 1, 4]
    assert manifest["job_seconds"] >= seconds[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_state_and_leaves(run, reward, tmp_path, number):
    whole, before = run("whole"), signal.getsignal(number)
    score, calls = reward.score, []

    def score_and_be_told(images, prompts):
        calls.append(number)
        if len(calls) == 1 + 3:  # the first measured its memory
            os.kill(os.getpid(), number)
        return score(images, prompts)

    reward.score = score_and_be_told
    assert run("parts") is None and len(calls) == 1 + 3
    assert signal.getsignal(number) is before
    left = {path.name for path in (tmp_path / "parts-state").iterdir()}
    assert left == {"attempts.json", "step-000000003.state"}
    assert not (tmp_path / "parts").exists()
    assert lora(run("parts")) == lora(whole)


def test_an_approaching_time_limit_saves_the_state_and_leaves(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))
    assert run() is None
    assert (tmp_path / "run-state" / "step-000000001.state").exists()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 6000))
    assert run() is not None


@pytest.mark.parametrize(
    ("where", "step", "keep_state"),
    [
        ("rocm_core.training.trainer.Trainer.iterate", 1, False),
        ("rocm_core.training.trainer.Trainer.iterate", 4, False),  # with a snapshot
        ("rocm_core.training.trainer.Trainer.iterate", 6, False),  # the last
        ("rocm_core.training.job._write_results", None, False),
        ("rocm_core.training.job._write_results", None, True),
    ],
)
def test_an_owner_that_was_stopped_and_taken_for_dead_writes_nothing_when_it_comes_back(
    run, tmp_path, monkeypatch, where, step, keep_state
):
    monkeypatch.setattr(rocm_core.training.job, "SAVE_SECONDS", 0.0)
    real, left = pydoc.locate(where), []

    def files():
        paths = (p for p in tmp_path.glob("run*/**/*") if p.is_file() and p.name != "lock.guard")
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def lose(*arguments):
        result = real(*arguments)
        if step is None or step in arguments:
            lock = tmp_path / "run-state" / "lock.json"
            lock.write_text(json.dumps({"host": "elsewhere", "pid": 17, "token": "another"}))
            left.append(files())
        return result

    monkeypatch.setattr(where, lose)
    changes = {"divergence": "kl", "beta": {"target": 0.01, "start": 1.0}}
    with pytest.raises(UserError, match="taken over by process 17 on elsewhere"):
        run(snapshot_every=4, keep_state=keep_state, **changes)
    assert left == [files()]


def test_damaged_states_are_passed_over(run, tmp_path, monkeypatch, capsys):
    whole = run("whole")
    monkeypatch.setattr(rocm_core.training.job, "SAVE_SECONDS", 0.0)
    assert run("parts", stop_after=4) is None
    states = sorted((tmp_path / "parts-state").glob("*.state"))
    assert [path.name for path in states] == ["step-000000003.state", "step-000000004.state"]
    states[1].write_bytes(states[1].read_bytes()[:-100])
    assert run("parts", stop_after=1) is None
    assert "step-000000004.state is damaged" in capsys.readouterr().err
    for path in (tmp_path / "parts-state").glob("*.state"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert lora(run("parts")) == lora(whole)


def test_a_state_of_other_settings_prompts_or_code_is_refused(run):
    assert run(stop_after=2) is None
    with pytest.raises(UserError, match="other learning_rate"):
        run(learning_rate=0.5)
    with pytest.raises(UserError, match="other fingerprint"):
        run(fingerprint="beef")
    with pytest.raises(UserError, match="other prompts"):
        run(prompts=tiny.PROMPTS[::-1])
    assert run() is not None


def rewritten(path, change):
    """Change what a state file holds, and give it the sha256 of that."""
    content = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    buffer = io.BytesIO()
    changed = change(content)
    torch.save(changed if isinstance(changed, list) else content, buffer)
    path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


def _first(values):
    return values[min(values)]


def _other_moments(state):
    state["adam"]["state"][0]["exp_avg"] = torch.zeros(1, 1)


def _no_moments(state):
    del state["adam"]["state"][1]


NOT_STATES = {
    "NaN in the adapter": lambda state: _first(state["lora"]).fill_(torch.nan),
    "infinite moments": lambda s: s["adam"]["state"][0]["exp_avg"].fill_(torch.inf),
    "NaN in the average": lambda state: _first(state["average"]).fill_(torch.nan),
    "NaN in the history": lambda state: state["history"][0].update(reward=torch.nan),
    "moments of another shape": _other_moments,
    "moments of some": _no_moments,
    "a layer less": lambda state: state["lora"].pop(min(state["lora"])),
    "a layer more": lambda state: state["lora"].update(other=torch.zeros(2)),
    "another shape": lambda state: state["lora"].update({min(state["lora"]): torch.zeros(1, 1)}),
    "no history": lambda state: state["history"].clear(),
    "of an earlier version": lambda s: s["history"][0].update(
        seconds=s["history"][0].pop("training_seconds")
    ),
    "another step": lambda state: state.update(counts=[5, 1.0, 9]),
    "a key less": lambda state: state.pop("nfe"),
    "no identity": lambda state: state.pop("identity"),
    "another beta": lambda state: state.update(beta=7.0),
    "no dictionary": lambda state: [1, 2],
    "other settings of Adam": lambda s: s["adam"]["param_groups"][0].update(weight_decay=0.9),
}


_STOPPED = []  # training up to there takes longer than what the tests are about


@pytest.fixture
def stopped(run, tmp_path, tmp_path_factory):
    """The state folder of a run that was stopped after two steps, to be copied."""
    if not _STOPPED:
        assert run("stopped", stop_after=2, ema_decay=0.5) is None
        kept = tmp_path_factory.mktemp("stopped") / "state"
        _STOPPED.append(shutil.copytree(tmp_path / "stopped-state", kept))
    return _STOPPED[0]


@pytest.mark.parametrize("kind", NOT_STATES)
def test_a_state_that_is_not_whole_and_finite_is_refused(run, tmp_path, stopped, kind):
    shutil.copytree(stopped, tmp_path / "run-state")
    (path,) = (tmp_path / "run-state").glob("*.state")
    rewritten(path, NOT_STATES[kind])
    content = path.read_bytes()
    with pytest.raises(UserError, match="step-000000002.state is not a whole state") as caught:
        run(ema_decay=0.5)
    assert "\n" not in caught.value.args[0] and "remove it" in str(caught.value)
    assert path.read_bytes() == content and not (tmp_path / "run").exists()


def test_a_state_under_another_name_and_a_file_that_is_none_are_refused(run, tmp_path):
    assert run(stop_after=2) is None
    folder = tmp_path / "run-state"
    (folder / "step-000000002.state").rename(folder / "step-000000004.state")
    with pytest.raises(UserError, match="step-000000004.state is of step 2"):
        run()
    (folder / "step-000000004.state").rename(folder / "step-000000002.state")
    for payload in (b"", b"not a state"):
        foreign = folder / "step-000000005.state"
        foreign.write_bytes(hashlib.sha256(payload).digest() + payload)
        with pytest.raises(UserError, match="step-000000005.state is not a state"):
            run()
        foreign.unlink()
    assert run() is not None


def test_a_snapshot_that_changed_under_an_unfinished_run_is_refused(run, tmp_path):
    assert run(stop_after=4, snapshot_every=2) is None
    snapshot = tmp_path / "run-state" / "snapshots" / "step-2.safetensors"
    content = snapshot.read_bytes()
    snapshot.write_bytes(content[:-4] + bytes(4))
    with pytest.raises(UserError, match="step-2.safetensors is missing or changed: remove"):
        run(snapshot_every=2)
    snapshot.write_bytes(content)
    assert run(snapshot_every=2) is not None


def test_a_reward_that_is_not_finite_names_step_and_prompt_and_overwrites_nothing(
    run, reward, tmp_path
):
    assert run(stop_after=2) is None
    state = {path: path.read_bytes() for path in (tmp_path / "run-state").glob("*.state")}
    score, broken = reward.score, []

    def break_one(images, prompts):
        broken.append(prompts[1])
        return score(images, prompts) * torch.tensor([1.0, torch.nan])

    reward.score = break_one
    with pytest.raises(UserError) as caught:
        run()
    culprit = next(prompt.id for prompt in tiny.PROMPTS if prompt.text == broken[0])
    assert f"the reward or divergence is not finite at step 3, prompt {culprit}:" in str(
        caught.value
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run-state").glob("*.state")} == state
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_is_refused(run, reward):
    score = reward.score
    reward.score = lambda images, prompts: score(images, prompts) + (images * 0).sqrt().sum()
    with pytest.raises(UserError, match="the gradient is not finite at step 1, prompt p., p."):
        run()


def test_a_controller_adapts_beta_to_its_target_by_ziegler_s_rule(run):
    target = {"target": 0.02, "start": 0.5}
    output = run(divergence="kl", beta=target)
    beta, kept = 0.5, math.exp(-2 / 16)
    total = weight = 0.0
    for row in history(output):
        assert float(row["beta"]) == pytest.approx(beta)
        total = kept * total + (1 - kept) * float(row["divergence"])
        weight = kept * weight + 1 - kept
        beta *= 1 + 0.1 * max(-0.2, min(0.2, total / weight / 0.02 - 1))
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["beta"] == pytest.approx(beta)
    assert manifest["settings"]["beta"] == target


def test_a_target_that_a_divergence_cannot_reach_is_refused(run):
    with pytest.raises(UserError, match="hellinger over 2 steps has saturated at 1.9: lower"):
        run(divergence="hellinger", beta={"target": 1.95, "start": 1.0})


def test_it_trains_in_bfloat16_with_a_float32_adapter(run):
    output = run(precision="bfloat16", divergence="kl", beta=0.01)
    assert json.loads((output / "manifest.json").read_text())["precision"] == "bfloat16"
    assert float(history(output)[-1]["squared_distance"]) > 0


def test_no_prompts_are_refused(model, tmp_path):
    with pytest.raises(UserError, match="no prompts to train on"):
        train(tiny.settings(model=model), [], tmp_path / "out", tmp_path / "state", "f00d")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_no_state_that_was_saved(run, reward, model, tmp_path, small_disk):
    whole, score = run("whole", snapshot_every=2), reward.score
    parts, calls = (tmp_path / "parts", small_disk / "state", "f00d"), []

    def fill_the_disk(images, prompts):
        calls.append(prompts)
        if len(calls) == 1 + 4:  # the first measured its memory
            with pytest.raises(OSError, match="No space left"), open(ballast, "wb") as file:
                while True:
                    file.write(bytes(512))
        return score(images, prompts)

    ballast, reward.score = small_disk / "ballast", fill_the_disk
    settings = tiny.settings(model=model, snapshot_every=2)
    with pytest.raises(OSError, match="No space left"):
        train(settings, tiny.PROMPTS, *parts)
    left = {path.name for path in (small_disk / "state").iterdir()}
    assert left == {"attempts.json", "step-000000002.state", "snapshots"}
    ballast.unlink()
    train(settings, tiny.PROMPTS, *parts)
    assert lora(parts[0]) == lora(whole) and len(calls) == 1 + 4 + 4


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_goes_on_for_more_iterations_as_if_given_at_first(run, monkeypatch, finished):
    from rocm_core.rewards import load_reward

    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", load_reward)
    changes = {"reward": "hinge_redness", "snapshot_every": 2, "divergence": "kl", "beta": 0.01}
    whole = run("whole", iterations=5, **changes)
    stop = None if finished else 2
    assert (run("parts", stop, keep_state=True, iterations=3, **changes) is None) != finished
    parts = run("parts", keep_state=True, iterations=5, **changes)
    assert lora(parts) == lora(whole)
    names = ["step-2.safetensors", "step-4.safetensors", "step-5.safetensors"]
    assert sorted(path.name for path in (parts / "snapshots").iterdir()) == names
    assert len(history(parts)) == 5
    with pytest.raises(UserError, match=r"is of step 5, beyond iterations, 4: remove its folder"):
        run("parts", iterations=4, **changes)


@pytest.mark.parametrize(
    ("changes", "depends"),
    [
        ({"reward": "hinge_redness"}, False),
        ({"learning_rate_schedule": "linear", "reward": "hinge_redness"}, True),
        ({"reward": "drifting_hue"}, True),
    ],
)
def test_only_a_training_that_depends_on_its_length_is_another_one_when_that_changes(
    changes, depends
):
    from rocm_core.grid import train_version

    shorter, longer = (tiny.settings(iterations=n, **changes) for n in (3, 5))
    version, other = (train_version(one, "weights", 1) for one in (shorter, longer))
    assert (version != other) == depends
    assert version != train_version(shorter, "others", 1)
    assert version != train_version(shorter, "weights", 2)


def test_a_training_starts_from_a_lora(run, tmp_path):
    first = run("first", iterations=3)
    again = run("again", iterations=1, learning_rate=0.0, init_lora=str(first / "lora.safetensors"))
    assert lora(again) == lora(first)
    further = run("further", iterations=2, init_lora=str(first / "lora.safetensors"))
    assert lora(further) not in (lora(first), lora(run("whole", iterations=2)))
    manifest = json.loads((further / "manifest.json").read_text())
    assert str(first / "lora.safetensors") in manifest["weights"]
    assert "init_lora" not in json.loads((first / "manifest.json").read_text())["settings"]
    with pytest.raises(UserError, match="init_lora: .* has another rank, alpha or other layers"):
        run("other", lora_rank=4, init_lora=str(first / "lora.safetensors"))
