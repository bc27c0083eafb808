"""The examples of the library in README and docs/adding.md do what is said of them."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import tiny
import yaml

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def examples(page):
    """The Python examples of a page, in order."""
    return re.findall("```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_runs_and_the_base_has_no_distance_to_itself(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(examples("README.md")[1], names)
    assert names["images"].shape == (1, 3, 32, 32)
    assert names["reward"].shape == (1,) and names["reward"].isfinite().all()
    assert names["kl"].shape == (1, 3) and not names["kl"].any()


def test_a_lora_in_a_plain_pipeline_draws_what_the_policy_draws(tmp_path, monkeypatch):
    """In one step, which has no noise but the first: the snippet itself takes four."""
    import torch

    from rocm_core import ModelSettings, load_policy
    from rocm_core.policies import add_adapter, save_lora

    model = "resources/shapes/consistency"
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    settings = ModelSettings(model=model, inference_steps=1, guidance_scale=1.0)
    policy = load_policy(settings)
    add_adapter(policy.network, 4, 8.0, ["to_q", "to_out.0", "conv1"], 0)
    tiny.perturb(policy.network, 0.1)
    code = examples("README.md")[0]
    (path,) = re.findall('load_lora_weights\\("(.*)"\\)', code)
    save_lora(tmp_path / path, policy.network)
    as_typed = f"{code}\nassert image.size == (32, 32)"  # in a process that has imported nothing
    done = subprocess.run([sys.executable, "-c", as_typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names: dict = {}
    exec(code, names)
    noise = policy.noise(0, ["a"], "samples")
    given = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "pt"}
    theirs = names["pipe"](names["prompt"], latents=noise[:, 0], **given).images
    with torch.no_grad():
        rollout = policy.rollout(policy.encode_prompts([names["prompt"]]), noise)
        ours = policy.decode(rollout.latents)
        with policy.reference():
            base = policy.decode(
                policy.rollout(policy.encode_prompts([names["prompt"]]), noise).latents
            )
    assert (ours - theirs).abs().max() < 1e-5 < (ours - base).abs().max()


def test_training_as_documented_takes_a_function_as_its_reward(tmp_path, monkeypatch, capsys):
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
    (code,) = re.findall("```python\n(.*?)```", text.split("## Training without")[1], re.DOTALL)
    exec(code, {})
    assert (tmp_path / "trained/lora.safetensors").stat().st_size > 0
    assert not (tmp_path / "trained.state").exists()
    with open(tmp_path / "trained/history.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file)]
    assert len(rewards) == 10
    assert [float(line) for line in capsys.readouterr().out.split()] == rewards


def test_a_reward_of_ones_own_package_is_trained_on_by_its_name(tmp_path, monkeypatch):
    tiny.write_package(tmp_path, "my_rewards", "rocm_core/rewards/redness.py")
    monkeypatch.syspath_prepend(tmp_path)  # where a script would lie
    monkeypatch.chdir(ROOT)
    from rocm_core import TrainingSettings, train

    settings = TrainingSettings(
        reward="my_rewards.redness",
        model="resources/shapes/consistency",
        inference_steps=4,
        guidance_scale=1.0,
        divergence="kl",
        beta=0.0005,
        learning_rate=1e-3,
        batch_size=4,
        iterations=10,
    )
    caption = "a large red circle left of a small blue ring on a plain gray background"
    train(settings, [caption], tmp_path / "trained")
    with open(tmp_path / "trained/history.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file)]
    assert len(rewards) == 10 and rewards[-1] > 2 * rewards[0]


def test_every_configuration_is_in_the_table_of_its_folder():
    rows = re.findall("^\\| (`.*?) \\|", (ROOT / "config/README.md").read_text(), re.M)
    named = re.findall(r"`([\w-]+\.yaml)`", " ".join(rows))
    assert sorted(named) == sorted(file.name for file in (ROOT / "config").glob("*.yaml"))


def test_a_bare_make_lists_every_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.M)
    for command in (["make"], ["make", "help"]):
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        listed = re.findall(r"^make ([\w-]+) ", shown, re.M)
        assert sorted(listed) == sorted(targets.replace("\\", " ").split())


def site_files(folder):
    """What `make docs` copies of a repository."""
    (command,) = re.findall(r"git ls-files -z (.*?)\|", (ROOT / "Makefile").read_text(), re.S)
    words = shlex.split(command.replace("\\\n", ""))
    listed = subprocess.run(["git", "ls-files", *words], cwd=folder, capture_output=True, text=True)
    return {*listed.stdout.splitlines()}


def test_the_site_has_published_results_without_their_shards(tmp_path):
    shown = ["report.html", "claims.md", "claims.json", "tables/a.csv", "tables/a.md"]
    shown += ["tables/a.tex", "figures/b.png", "figures/b.pdf", "figures/b.csv"]
    hidden = ["cells/r/m/seed-0/history.csv", "samples/base/v/steps-4/scores.csv"]
    hidden += ["prompts/train.jsonl", "search/r/m.json", "tables/a.manifest.json"]
    hidden += ["report.manifest.json", "standards/consistency/train/r.json"]
    for name in [*shown, *hidden]:
        file = tmp_path / "docs/results/shapes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert site_files(tmp_path) == {f"docs/results/shapes/{name}" for name in shown}


def test_a_broken_link_fails_the_build_of_the_site():
    """mkdocs counts warnings in its strict mode, but with --quiet it has none."""
    assert yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["strict"] == "true"
    command = ["make", "-n", "docs", "-o", ".venv-docs/done"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line for line in told.splitlines() if line.endswith("bin/mkdocs build")]


def test_the_site_has_its_style_and_asks_for_nothing_from_elsewhere():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    files = site_files(ROOT)
    assert {*settings["extra_css"]} <= files
    assert settings["theme"]["font"] == "false" and "extra_javascript" not in settings
    for name in files:  # for a diagram, the theme would load a script from another host
        assert not name.endswith(".md") or "```mermaid" not in (ROOT / name).read_text(), name


def test_every_link_leads_to_a_file_that_the_site_has():
    """As `make docs` copies them; the anchors in them are mkdocs' to check."""
    files = {ROOT / name for name in site_files(ROOT)}
    pages = [file for file in files if file.suffix == ".md"]
    links = [
        (page.relative_to(ROOT), target)
        for page in pages
        for target in re.findall(
            r'(?:\]\(|<a href="|<img src=")([^)"\s#]+)',
            CODE.sub("", page.read_text(encoding="utf-8")),
        )
        if "://" not in target
    ]
    assert len(pages) > 20 and len(links) > 100
    assert not [
        (str(page), target)
        for page, target in links
        if (ROOT / page.parent / target).resolve() not in files
    ]


def test_the_tests_of_each_user_s_way_exist():
    text = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 12
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8") or not name
