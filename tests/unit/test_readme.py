"""The examples of the library in README and docs/adding.md do what is said of them."""

import csv
import re
import subprocess
from pathlib import Path

import tiny

ROOT = Path(__file__).parents[2]


def test_the_example_runs_and_the_base_has_no_distance_to_itself(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (1, 3, 32, 32)
    assert names["reward"].shape == (1,) and names["reward"].isfinite().all()
    assert names["kl"].shape == (1, 3) and not names["kl"].any()


def test_a_reward_of_ones_own_is_trained_on_without_snakemake(tmp_path, monkeypatch):
    tiny.write_package(tmp_path, "my_rewards", "rocm_core/rewards/redness.py")
    monkeypatch.syspath_prepend(tmp_path)  # where a script would lie
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
    (code,) = re.findall("```python\n(.*?)```", text.split("## Training without")[1], re.DOTALL)
    exec(code, {})
    assert (tmp_path / "trained/lora.safetensors").stat().st_size > 0
    assert not (tmp_path / "trained.state").exists()
    with open(tmp_path / "trained/history.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file)]
    assert len(rewards) == 10 and rewards[-1] > 2 * rewards[0]


def test_a_bare_make_lists_every_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.M)
    for command in (["make"], ["make", "help"]):
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        listed = re.findall(r"^make ([\w-]+) ", shown, re.M)
        assert sorted(listed) == sorted(targets.replace("\\", " ").split())
