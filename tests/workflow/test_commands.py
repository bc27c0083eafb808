"""What people type: the named targets, profiles and configurations, as dry-runs."""

import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT, Checkout, count_jobs

from rocm_core.commands import cells
from rocm_core.grid import load_config, make_grid, offered, used

Plan = Callable[..., str]
CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))
LARGE = {"contest.yaml", "paper-small.yaml", "shapes.yaml"}


@pytest.mark.parametrize(
    "config",
    [pytest.param(name, marks=pytest.mark.faults if name in LARGE else []) for name in CONFIGS],
)
def test_every_configuration_plans_one_training_per_cell(
    plan: Plan, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = load_config(ROOT / "config" / config).shards
    whole = ["--config", "shards=null"] if kept else []  # as if nothing were finished yet
    jobs = count_jobs(plan(*whole, config=f"config/{config}"))
    monkeypatch.setattr("sys.argv", ["cells", "--configfile", str(ROOT / "config" / config)])
    cells.main()  # as `make cells` counts them
    counted = re.search(r"^(\d+) cells$", capsys.readouterr().out, re.M)
    assert counted and jobs["train_cell"] == int(counted[1])
    assert jobs["report"] == jobs["table1"] == jobs["figure2"] == 1


# The slurm profile names the paper itself.
@pytest.mark.parametrize(
    ("profile", "named", "config"), [("slurm", None, "paper"), ("local", "demo", "demo")]
)
def test_a_profile_plans_the_same_jobs_as_none(
    plan: Plan, profile: str, named: str | None, config: str
) -> None:
    shown = plan("--profile", profile, config=named and f"config/{named}.yaml")
    assert count_jobs(shown) == count_jobs(plan(config=f"config/{config}.yaml"))
    assert f"results/{config}/report.html" in shown
    assert "results/demo" not in shown or config == "demo"


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], "config/demo.yaml"),
        (["--profile", "{source}/local"], "config/demo.yaml"),
        pytest.param(
            ["--profile", "{source}/slurm"], "config/paper.yaml", marks=pytest.mark.faults
        ),
    ],
    ids=["plain", "local", "slurm"],
)
def test_an_empty_folder_plans_what_the_checkout_does(
    pristine: Checkout,
    plan: Plan,
    tmp_path: Path,
    arguments: list[str],
    config: str,
) -> None:
    named = [argument.format(source=pristine.path) for argument in arguments]
    elsewhere = pristine.at(tmp_path)
    done = elsewhere.snakemake("-n", "all", "-s", f"{pristine.path}/Snakefile", *named)
    assert done.returncode == 0, done.stderr
    assert count_jobs(done.stdout + done.stderr) == count_jobs(plan(config=config))


def documented_jobs() -> dict[str, int]:
    """The table of jobs in docs/reproducing.md; `train_cell` is also priced there, in parts."""
    text = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
    jobs, prices = text.partition("## What runs")[2].split("\n## ")[:2]
    cells = re.findall(r"^\| .* \| (\d+) \| \d+ \| [\d.]+ \|$", prices, re.M)
    found = {rule: int(n) for rule, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", jobs, re.M)}
    assert sum(map(int, cells)) == found["train_cell"]
    return found


def test_the_paper_plans_what_its_grid_and_the_documentation_say(plan: Plan) -> None:
    jobs = count_jobs(plan("--profile", "slurm", config=None))
    rewards, divergences, baselines, betas = 4, 5, 4, 5
    main = rewards * (divergences + baselines)
    whole = main + rewards * betas + divergences + 2 * 2  # on the 45 animals; learning rates
    searches, settings = (divergences - 1, 3), (betas, 2 * 3)  # without none; diffusion methods
    trials = rewards * sum(a * b for a, b in zip(searches, settings, strict=True))
    trained = whole + trials
    bases, sets = 2, 2  # validation and the study's
    grid = {
        "make_prompts": sets + 2,
        "train_cell": trained,
        "evaluate_images": (bases + main) * sets + trained - main,
        "score_published": bases + trained,
        "evaluate_snapshots": whole,
        "measure_gradients": rewards * 2,
        # ROCM and DPOK, RLCM and DDPO, D3PO's pairs, the animals: prompts and noise of their own.
        "score_base": 6,
        "choose_settings": rewards * sum(searches),
    }
    documented = documented_jobs()
    assert {rule: jobs[rule] for rule in documented} == documented
    assert {rule: documented[rule] for rule in grid} == grid
    assert documented.keys() - grid.keys() == {"fetch_weights"}
    assert {number for rule, number in jobs.items() if rule not in documented} == {1}


@pytest.mark.parametrize("config", ["paper", "rlcm"])
def test_every_model_scorer_and_prompt_of_the_papers_can_be_fetched(config: str) -> None:
    from rocm_core.weights import files_of

    paths = used(load_config(ROOT / f"config/{config}.yaml"))
    assert len(paths) > 5 and all(files_of(path) for path in paths)


def test_the_experiments_of_rlcm_are_planned_on_every_prompt_set_and_number_of_steps(
    plan: Plan,
) -> None:
    jobs = count_jobs(plan(config="config/rlcm-shapes.yaml"))
    # 6 rewards × (RLCM, DDPO), 2 of them with ROCM too, and 3 more horizons on 2; 3 seeds each.
    # Two tries of RLCM's and of DDPO's rates on each reward.
    tries = 6 * 2 * 2
    assert jobs["train_cell"] == 3 * (6 * 2 + 2 + 3 * 2) + tries
    # Validation at 5 or, of the diffusion policy, 6 numbers of steps, unseen prompts at one.
    assert jobs["evaluate_images"] == (3 * (6 + 2) + 1) * 6 + (3 * 6 + 1) * 7 + 3 * 3 * 2 + tries
    assert jobs["choose_settings"] == 6 * 2
    assert jobs["make_prompts"] == 3
    assert jobs["efficiency"] == jobs["inference_time"] == jobs["horizon"] == 1
    assert jobs["generalisation"] == jobs["table4"] == jobs["costs"] == jobs["sweep"] == 1


def test_the_search_tries_as_many_settings_of_every_method() -> None:
    grid = make_grid(load_config(ROOT / "config/shapes.yaml"))
    tried = Counter((cell.reward, cell.method) for cell in grid if cell.trial)
    assert len(tried) == 4 * 9 and set(tried.values()) == {3}  # rewards, methods
    queries = {
        (s.algorithm, s.iterations * s.batch_size * s.accumulation_steps)
        for cell in grid
        for s in [cell.settings]
    }  # of tries, too: each is a whole training
    assert queries == {("direct", 1504), ("ppo", 3008), ("dpok", 3008), ("d3po", 3008)}


def test_without_arguments_the_demo_is_planned_in_five_seconds(pristine: Checkout) -> None:
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = Checkout(pristine.path).jobs(config=None)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime < 5
    # none, KL, JS, Hellinger and Fisher, and the base.
    assert jobs["train_cell"] == 5 and jobs["evaluate_images"] == 6


def test_the_documented_count_of_what_is_left_counts_the_jobs(pristine: Checkout) -> None:
    shown = pristine.snakemake("-n", "all", "--quiet", "rules")
    assert shown.returncode == 0 and count_jobs(shown.stdout)["train_cell"] == 5
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    assert "`snakemake --profile slurm -n all --quiet rules`" in text


def test_a_plan_counts_the_jobs_of_a_dry_run(
    pristine: Checkout, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocm_core.commands.plan import dry_run, jobs as counted, plan as make_plan
    from rocm_core.errors import UserError

    monkeypatch.chdir(pristine.path)
    lines = [*make_plan("config/demo.yaml")]
    assert len(lines) <= 20
    jobs = count_jobs(plan(config="config/demo.yaml"))
    assert lines[0] == f"jobs: {sum(jobs.values())}"
    said = re.findall(r" (\d+)  (\w+)", "\n".join(lines[1:3]))
    assert said[:-1] == [(str(count), rule) for rule, count in jobs.items() if count > 1]
    assert sum(int(count) for count, _ in said[:-1]) + int(said[-1][0]) == sum(jobs.values())
    assert any(line.startswith("CPU hours: ") for line in lines)
    about = "  1.00  11   A model is never evaluated on the reward that it was trained on"
    assert about in [*make_plan("config/demo.yaml", each=True)]
    with pytest.raises(UserError, match="Snakemake has no plan: .*nowhere.yaml"):
        [*counted(dry_run("config/nowhere.yaml"))]


@pytest.mark.faults  # for its time
def test_a_sweep_of_hundreds_of_cells_is_planned_cell_by_cell(
    pristine: Checkout, tmp_path: Path
) -> None:
    values = [(n + 0.5) / 1000 for n in range(2, 217)]
    demo = (ROOT / "config/demo.yaml").read_text()
    sweep = f"sweeps: [{{methods: [rocm-kl], setting: beta, values: {values}}}]\n"
    (tmp_path / "sweep.yaml").write_text(demo + sweep)
    jobs = pristine.jobs("--profile", "slurm", config=str(tmp_path / "sweep.yaml"))
    count = 5 + len(values)
    assert count == jobs["train_cell"] == jobs["evaluate_snapshots"] == 220
    assert jobs["evaluate_images"] == count + 1
    drawn = {name for name, number in jobs.items() if number == 1}
    assert {"table1", "table2", "training", "report"} <= drawn
    assert sum(jobs.values()) == 2 + 3 * count + 1 + len(drawn)


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("prompts", {"make_prompts"}),
        ("train", {"make_prompts", "train_cell"}),
        ("generate", {"make_prompts", "train_cell", "evaluate_images"}),
        ("table1", {"make_prompts", "train_cell", "evaluate_images"}),
        ("squared_distance", {"make_prompts", "train_cell"}),
        ("gold_vs_kl", {"make_prompts", "train_cell", "evaluate_snapshots"}),
    ],
)
def test_a_named_target_plans_only_what_it_needs(
    pristine: Checkout, target: str, rules: set[str]
) -> None:
    assert pristine.jobs(config=None, targets=[target]).keys() == rules


@pytest.mark.parametrize("target", ["score", "figures", "tables", "claims", "report", "figure2"])
def test_the_other_named_targets_exist(pristine: Checkout, target: str) -> None:
    assert pristine.jobs(config=None, targets=[target])["train_cell"] == 5


def test_the_documentation_says_which_configuration_draws_what() -> None:
    from rocm_core.plugins import names

    loaded = {name.removesuffix(".yaml"): load_config(ROOT / "config" / name) for name in CONFIGS}
    drawn = {
        name: {*offered("tables", config), *offered("figures", config)}
        for name, config in loaded.items()
    }
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    said = {
        name: set(drawn) if listed == "all" else set(listed.split(", "))
        for name, listed in re.findall(r"^\| `(\w+)` \|.*\| ([\w, -]+) \|$", text, re.M)
    }
    made = {
        name: {c for c in drawn if name in drawn[c]} for name in names("tables") + names("figures")
    }
    made["figure3"] = {name for name, config in loaded.items() if config.study}
    assert said == made


def test_the_documentation_says_how_many_cells_each_configuration_has() -> None:

    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| `(config/\S+)` \|.*\| (\d+) \|$", text, re.M)
    made = {
        f"config/{name}": len(make_grid(load_config(ROOT / "config" / name))) for name in CONFIGS
    }
    del made["config/demo.yaml"]  # the README's
    assert {name: int(count) for name, count in said} == made


def test_one_rule_a_table_and_a_figure(pristine: Checkout) -> None:
    from rocm_core.plugins import names

    shown = pristine.snakemake("--list-rules", "--configfile", "config/rlcm-shapes.yaml")
    rules = set(shown.stdout.split())
    # What needs snapshots, several values of β, several strengths of the adapter, or gradients.
    without = {"figure6", "training", "gold_vs_reward", "gold_vs_kl", "figure4", "table2"}
    without |= {"lora_scale", "gradients"}
    drawn = {*names("tables"), *names("figures")}
    assert rules >= (drawn | {"report", "world", "all"}) - without
    assert not rules & without


def test_planning_never_imports_torch(pristine: Checkout) -> None:
    done = Checkout(pristine.path).snakemake("-n", "--quiet", interpreter=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert {"snakemake", "rocm_core.grid.cells"} <= imported
    assert not imported & {"torch", "torchvision", "diffusers", "transformers", "matplotlib"}


def test_the_snakefile_imports_nothing_heavy(pristine: Checkout) -> None:
    """Snakemake brings pandas and numpy itself; the Snakefile would run without them."""
    rules = "".join(f.read_text() for f in (pristine.path / "workflow/rules").glob("*.smk"))
    imports = re.findall(r"^(?:from|import) rocm_core\b[^\n(]*(?:\([^)]*\))?", rules, re.M)
    assert imports
    probe = ["import sys", "sys.path.insert(0, '.')", *imports]
    probe += ["import rocm_core.grid", "rocm_core.grid.load_config('config/demo.yaml')"]
    probe += ["print(*sys.modules)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(probe)],
        cwd=pristine.path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert "rocm_core.grid.cells" in imported
    assert not imported & {"torch", "numpy", "pandas", "PIL", "matplotlib"}


def test_an_unknown_cell_is_named_in_one_sentence(pristine: Checkout) -> None:
    shown = pristine.snakemake("-n", "results/demo/cells/hpsv2/rocm-kll/seed-0/lora.safetensors")
    assert shown.returncode != 0
    last = shown.stderr.strip().splitlines()[-1]
    assert last.startswith("error: hpsv2/rocm-kll/seed-0 is not a cell of results/demo")


def test_partial_results_need_some_results(pristine: Checkout) -> None:
    shown = pristine.snakemake("-n", "figures", "--config", "partial=true")
    assert shown.returncode != 0
    assert shown.stderr.strip().splitlines()[-1].startswith("error: results/demo holds no training")


@pytest.mark.parametrize("profile", ["slurm", "local", "profiles/default"])
def test_no_profile_uses_the_code_trigger(profile: str) -> None:
    import yaml

    keys = yaml.safe_load((ROOT / profile / "config.yaml").read_text())
    assert keys["rerun-triggers"] == ["mtime", "params", "input", "software-env"]
    assert keys["max-checksum-file-size"] == "1GB"
