"""What can be seen of a training while it runs: it is right, and it changes no number."""

import csv
import multiprocessing
import os
import signal

import pytest
import tiny

from rocm_core.configuration import ProgressSettings
from rocm_core.errors import UserError
from rocm_core.jobs import Progress
from rocm_core.provenance import RunFiles
from rocm_core.training import train

TAGS = {"reward", "loss", "gradient_norm", "learning_rate"}
parallel = multiprocessing.get_context("fork")  # a child need not import torch again


@pytest.fixture
def start(model, reward, tmp_path, monkeypatch):
    """Train with what is to be shown; returns the folder of that."""
    monkeypatch.setattr("rocm_core.training.job.SAVE_SECONDS", 1e9)  # however slow the machine

    def start(name="run", shown=None, on_step=None, stop_after=None, terminal=None, **changes):
        settings = tiny.settings(model=model, **changes)
        progress = Progress(
            ProgressSettings(**{"seconds": 0.0} | (shown or {})),
            tmp_path / "runs" / name,
            name,
            terminal=terminal,
        )
        parts = tiny.PROMPTS, tmp_path / name, tmp_path / f"{name}-state", "f00d", stop_after
        train(settings, *parts, progress=progress, on_step=on_step)
        return progress.files

    return start


def rows(file):
    with open(file, newline="") as table:
        return list(csv.DictReader(table))


def test_lines_and_rows_appear_while_it_runs_and_the_rows_are_those_of_the_history(
    start, tmp_path, capsys
):
    seen, lines = {}, []
    files = RunFiles(tmp_path / "runs/run")

    def look(row):
        seen[row["step"]] = rows(files.history)
        snapshots = files.snapshots.iterdir() if files.snapshots.is_dir() else ()
        lines.append(len({file.name for file in snapshots if file.name[0] != "."}))

    inlet, outlet = os.pipe()
    start(on_step=look, terminal=outlet, divergence="kl", beta=0.01, snapshot_every=2)
    os.close(outlet)
    whole = rows(tmp_path / "run/history.csv")
    assert seen == {n: whole[:n] for n in range(1, 7)}
    assert lines == [0, 0, 1, 1, 2, 2]  # the snapshot of a step follows it
    assert not files.history.exists() and not files.snapshots.exists()
    said = [line for line in capsys.readouterr().err.splitlines() if " of 6: reward " in line]
    assert len(said) == 6 and os.read(inlet, 10_000).decode().splitlines() == said
    os.close(inlet)
    for row, line in zip(whole, said, strict=True):
        distance = f"d² {float(row['squared_distance']):.4g}"
        reward = f"reward {float(row['reward']):.4g}"
        assert line.startswith(f"run: step {row['step']} of 6: {reward}, {distance}, ")
        assert line.endswith(" s left")


def test_what_is_shown_changes_no_number_and_previews_are_drawn_by_the_snapshots(
    start, model, tmp_path
):
    import numpy as np
    import torch
    from PIL import Image

    from rocm_core.policies import load_lora

    changes = {"snapshot_every": 4, "divergence": "kl", "beta": 0.01, "ema_decay": 0.5}
    start("plain", {"preview": 0}, **changes)
    files = start("shown", {"preview": 3, "trackers": ("tensorboard",)}, **changes)
    for name in ("lora", "snapshots/step-4", "snapshots/step-6"):
        plain, shown = (tmp_path / run / f"{name}.safetensors" for run in ("plain", "shown"))
        assert plain.read_bytes() == shown.read_bytes()
    timed = {"training_seconds", "peak_memory_gib"}
    plain, shown = (rows(tmp_path / run / "history.csv") for run in ("plain", "shown"))
    for ours, theirs in zip(plain, shown, strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }
    assert sorted(file.name for file in files.previews.iterdir()) == ["step-4.png", "step-6.png"]

    policy = tiny.load_policy("consistency", model, 3, 4.0)
    load_lora(policy.network, tmp_path / "shown/snapshots/step-4.safetensors", "unet")
    first = tiny.PROMPTS[:3]
    with torch.no_grad():
        embeddings = policy.encode_prompts([prompt.text for prompt in first])
        noise = policy.noise(0, [prompt.id for prompt in first], "previews")
        images = policy.decode(policy.rollout(embeddings, noise).latents)
    sheet = np.asarray(Image.open(files.preview(4)))
    assert sheet.shape == (16, 16, 3)  # 2 × 2 of 8 pixels, the last of them empty
    for image, (y, x) in zip(images, [(0, 0), (0, 8), (8, 0)], strict=True):
        drawn = (image * 255).round().permute(1, 2, 0).numpy()
        assert abs(sheet[y : y + 8, x : x + 8] - drawn).max() <= 1


def test_killed_and_resumed_it_is_one_curve_in_tensorboard(start, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = {"shown": {"trackers": ("tensorboard",), "preview": 2}, "snapshot_every": 4}

    def die(row):
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(SystemExit):
        start(stop_after=2, **given)
    # Steps 3 to 5 are shown, of which the state lacks the last; nobody closes the event file.
    child = parallel.Process(target=start, kwargs=given | {"on_step": die})
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [int(row["step"]) for row in rows(tmp_path / "runs/run/history.csv")] == [1, 2, 3, 4, 5]
    files = start(**given)
    events = EventAccumulator(str(files.tensorboard))
    events.Reload()
    whole = rows(tmp_path / "run/history.csv")
    assert set(events.Tags()["scalars"]) >= TAGS
    for tag in TAGS:
        logged = events.Scalars(tag)
        assert [event.step for event in logged] == [1, 2, 3, 4, 5, 6]
        values = [float(row[tag]) for row in whole]
        assert [event.value for event in logged] == pytest.approx(values), tag
    assert [event.step for event in events.Images("previews")] == [4, 6]
    # Another training of that cell, from the start, is another curve.
    start(seed=1, **given)
    again = EventAccumulator(str(files.tensorboard))
    again.Reload()
    other = [float(row["reward"]) for row in rows(tmp_path / "run/history.csv")]
    assert [event.value for event in again.Scalars("reward")] == pytest.approx(other)
    assert other != pytest.approx([float(row["reward"]) for row in whole])


def test_a_run_in_wandb_is_offline_and_keeps_its_id(start, tmp_path, monkeypatch):
    from accelerate import tracking

    from rocm_core.jobs import progress

    runs = []

    class Recorder:
        def __init__(self, project, **given):
            runs.append({"project": project, "mode": os.environ["WANDB_MODE"]} | given)

        start = finish = lambda self: None

        def log(self, values, step):
            runs[-1].setdefault("steps", []).append(step)

        def log_images(self, values, step):
            runs[-1]["images"] = values["previews"].shape

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "WandBTracker", Recorder)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: name)
    shown = {"trackers": ("wandb",), "preview": 5}
    with pytest.raises(SystemExit):
        start("a/b", shown, stop_after=2)
    start("a/b", shown)
    first, second = runs
    assert first["steps"] == [1, 2] and second["steps"] == [3, 4, 5, 6]
    assert first["mode"] == "offline" and first["name"] == "a/b" and first["resume"] == "allow"
    assert first["id"] == second["id"] and first["config"]["learning_rate"] == 0.01
    start("a/c", shown, snapshot_every=3, iterations=3)
    assert runs[-1]["id"] != first["id"] and runs[-1]["images"] == (5, 8, 8, 3)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch, tmp_path):
    from rocm_core.jobs import progress

    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"progress\.trackers: wandb is not installed: pip install"):
        Progress(ProgressSettings(trackers=("wandb",)), tmp_path)


def test_watch_says_what_runs_how_far_and_what_is_left(tmp_path):
    from rocm_core.commands.watch import report
    from rocm_core.grid import Artefacts, load_config
    from rocm_core.jobs import StateFolder
    from rocm_core.provenance import write_csv, write_json

    training = {"iterations": 100, "snapshot_every": 25}
    config = load_config("config/demo.yaml", {"training": training})
    files = Artefacts(config, tmp_path)
    layout = files.layout
    write_json(layout.cell("hpsv2/rocm-none/seed-0").manifest, {"job_seconds": 720.0})
    for method, step in (("rocm-kl", 40), ("rocm-js", 10)):
        history = layout.run(f"hpsv2/{method}/seed-0").history
        steps = [{"step": n, "reward": 0.27123, "squared_distance": 11.2} for n in (1, step)]
        write_csv(history, steps[0], [row.values() for row in steps])
    with StateFolder(layout.state("hpsv2/rocm-kl/seed-0", "v1")):
        stopped = layout.state("hpsv2/rocm-js/seed-0", "v1")
        owner = {"host": "node17", "pid": 1, "job": "23", "token": "x", "since": 1000.0}
        write_json(stopped / "lock.json", owner)
        os.utime(stopped / "lock.json", (1360.0, 1360.0))
        first, running, left, made, hours = report(files).splitlines()
    assert first == f"{tmp_path}: 5 trainings: 1 finished, 1 running, 1 stopped, 2 waiting"
    assert (
        "hpsv2/rocm-kl/seed-0  running  step 40 of 100, 0 s left  reward 0.2712, d² 11.2" in running
    )
    assert "hpsv2/rocm-js/seed-0  stopped  step 10 of 100, 54 min left  reward 0.2712, d²" in left
    assert left.endswith("on node17, job 23")
    assert made.startswith("Made: images 0 of 6, scores 0 of 6, evaluated snapshots 0 of 5, tables")
    # 720 s + 360 s so far. To come: 90 × 36 s, and twice 100 × 1080 s / 150.
    assert hours == "Training, in hours: 0.30 so far, about 1.30 to come"
    # Of two processes each step takes as long and costs twice as much.
    config = load_config("config/demo.yaml", {"training": training, "resources": {"gpus": 2}})
    _, _, left, _, hours = report(Artefacts(config, tmp_path)).splitlines()
    assert "step 10 of 100, 54 min left" in left and hours.startswith(
        "Training, in GPU hours: 0.40"
    )
    config = load_config("config/demo.yaml", {"methods": {"rocm-none": {}}})
    first, _, hours = report(Artefacts(config, tmp_path / "new")).splitlines()
    assert first == f"{tmp_path}/new: 1 training: 1 waiting"
    assert hours == "Training, in hours: 0.00 so far, and 1 training of a kind that has not begun"
