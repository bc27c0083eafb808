"""What `make plan` says before a run: claims by rehearsal, operations by the passes of a step."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from synthetic import FOUR, make_config, make_wide_config, write_results

from rocm_core.claims import CLAIMS, derive, prospects
from rocm_core.claims._assumed import RECORD, Assumed, assumed
from rocm_core.claims.rehearsal import Rehearsal
from rocm_core.commands import plan
from rocm_core.commands.plan import claims, costs, each_claim, with_seeds
from rocm_core.errors import UserError
from rocm_core.grid import (
    GPUS,
    REACHED,
    budget_of,
    images_per_iteration,
    load_config,
    make_grid,
    parse_config,
    training_work,
)
from rocm_core.grid.budget import Work
from rocm_core.grid.costs import COSTS, costs_of
from rocm_core.provenance import sha256_file

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))
ONE_SCORER = {"scorers": {"hpsv2": None, "gold": None}, "rewards": ["hpsv2"], "study": None}
FEW = 2  # rehearsals, where power is not what is asked


def by_id(config, *ids, **options):
    wanted = [claim for claim in CLAIMS if not ids or claim.id in ids]
    return {one.claim.id: one for one in prospects(config, wanted, **options)}


@pytest.fixture(scope="module")
def wide():
    return by_id(make_wide_config(seeds=[0, 1, 2]), rehearsals=FEW)


def test_a_record_holds_what_a_study_found(tmp_path):
    sweeps = [{"methods": ["rocm-none"], "setting": "learning_rate", "values": [1e-4, 4e-4, 1e-3]}]
    tries = {"beta": {"search": [0.01, 0.04, 0.16], "iterations": 40}}
    config = make_wide_config(methods=FOUR | {"rocm-kl": tries}, sweeps=sweeps)
    unit = 0.4  # of the Aesthetic score
    effects = {("aesthetic", "rocm-none"): {"aesthetic": 2 * unit, "hpsv2": -0.02}}
    effects |= {("aesthetic", "ddpo"): {"aesthetic": unit, "gold": -0.15}}
    for beta in tries["beta"]["search"]:  # falls with the root of β
        name = f"rocm-kl--beta-{beta}--iterations-40"
        effects["aesthetic", name] = {"aesthetic": 0.1 * unit / beta**0.5}
    for rate in (0.0001, 0.0004):
        name = f"rocm-none--learning_rate-{rate}"
        effects["aesthetic", name] = {"aesthetic": unit * (rate / 1e-4) ** 0.25}
    write_results(tmp_path, config, effects)
    with pytest.raises(UserError, match=r"claims\.json"):
        derive(config, tmp_path)
    (tmp_path / "claims.json").write_text("{}")
    record = json.loads(json.dumps(derive(config, tmp_path)))

    found = {(r["reward"], r["method"], r["metric"]): r["effect"] for r in record["effects"]}
    base = pd.read_csv(tmp_path / "samples/base-diffusion/validation/steps-10/scores.csv")
    unit = base.groupby("metric")["value"].std()
    own = found["aesthetic", "rocm-none", "own"] * unit["aesthetic"]
    assert own == pytest.approx(0.8, rel=0.1)
    lost = found["aesthetic", "rocm-none", "hpsv2"] * unit["hpsv2"]
    assert lost == pytest.approx(-0.02, rel=0.1)
    assert found["aesthetic", "ddpo", "gold"] * unit["gold"] == pytest.approx(-0.15, rel=0.1)
    assert abs(found["hpsv2", "rocm-none", "gold"]) < 0.1
    assert ("aesthetic", "rocm-none", "aesthetic") not in found
    assert record["curve"] == pytest.approx([n / 8 for n in range(1, 9)], abs=0.05)
    assert record["slopes"]["beta"] == pytest.approx(-0.5, abs=0.1)
    assert record["slopes"]["learning_rate"] == pytest.approx(0.25, abs=0.1)
    assert record["signal"]["direct"] == pytest.approx(0.1 / 1.1, rel=0.02)
    assert record["signal"]["policy gradient"] == pytest.approx(0.01 / 1.01, rel=0.02)
    assert record["votes"] == pytest.approx({"share": 0.15, "half_width": 0.125, "pairs": 20})
    assert record["seeds"]["share"] < 0.2 < record["prompts"]["share"] < 0.5
    rehearsed = by_id(config, "13", rehearsals=1, record=Assumed(record))
    assert rehearsed["13"].missing is None


def test_what_the_record_was_made_of_is_published_as_it_was():
    for name, digest in json.loads(RECORD.read_text(encoding="utf-8"))["files"].items():
        assert sha256_file(ROOT / "docs/results" / name) == digest, name


def test_a_record_needs_the_diffusion_model(tmp_path):
    with pytest.raises(UserError, match="base-diffusion"):
        derive(make_config(), tmp_path)


def test_rehearsals_show_the_effects_and_spreads_of_the_study():
    """Claim 13 of the study itself, drawn: its parts' differences and their intervals."""
    config = load_config(ROOT / "docs/results/earlier-world/config.yaml")
    published = json.loads((ROOT / "docs/results/earlier-world/claims.json").read_text())["claims"]
    (claim,) = [claim for claim in CLAIMS if claim.id == "13"]
    (study,) = [claim["parts"] for claim in published if claim["id"] == "13"]
    draws = [list(claim.parts(Rehearsal(config, assumed(), seed))) for seed in range(2)]
    for parts in draws:
        assert len(parts) == len(study)
        near = [
            part["effect"]["low"] <= drawn.comparison.effect.high
            and drawn.comparison.effect.low <= part["effect"]["high"]
            for part, drawn in zip(study, parts, strict=True)
        ]
        assert sum(near) >= 0.9 * len(near)
    first, second = ([part.comparison.difference.mean for part in parts] for parts in draws)
    assert first != second


def test_the_same_configuration_has_the_same_prospects(wide):
    again = by_id(make_wide_config(seeds=[0, 1, 2]), "2", "R1", rehearsals=FEW)
    assert again == {id: wide[id] for id in again}


def test_power_grows_with_seeds():
    def power(seeds):
        config = make_wide_config(seeds=[*range(seeds)])
        found = by_id(config, "2", "4", "6", "13", rehearsals=5)
        return sum(one.power for one in found.values())

    assert power(2) + 1 < power(6)


def test_claims_are_listed_with_their_power_for_other_numbers_of_seeds(wide):
    config = make_wide_config(seeds=[0, 1, 2])
    alone = prospects(with_seeds(config, 1), rehearsals=FEW)
    found = {3: list(wide.values()), 1: alone}
    listed = "\n".join(each_claim(found))
    assert listed.startswith("power by number of seeds:\n     1     3\n")
    rows = re.findall(r"^  ( *–|\d.\d\d)  ( *–|\d.\d\d)  (\w+)", listed, re.M)
    assert {id: (first.strip(), second.strip()) for first, second, id in rows} == {
        one.claim.id: tuple(
            f"{each.power:.2f}" if each.missing is None else "–"
            for each in (one, wide[one.claim.id])
        )
        for one in alone
    }


def test_power_grows_with_the_effect():
    def power(factor):
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        for row in record["effects"]:
            row["effect"] *= factor
        record["prompts"], record["seeds"] = ({"share": 0.0, "least": x} for x in (1.0, 0.1))
        config = make_config(seeds=[0, 1, 2], methods={"rocm-kl": {"beta": 0.05}, "rlcm": {}})
        return by_id(config, "Q3a", rehearsals=8, record=Assumed(record))["Q3a"].power

    assert power(0.3) + 0.3 < power(3.0)


@pytest.mark.parametrize(
    ("id", "lacking", "changes"),
    [
        ("4", "one training seed", {"seeds": [0]}),
        ("R1", "one training seed", {"seeds": [0]}),
        ("1", "a baseline", {"methods": {"rocm-kl": {"beta": 0.05}}, "sweeps": [], "study": None}),
        ("7", "three values of beta", {"sweeps": []}),
        ("14a", "three tries each", {"sweeps": []}),
        ("1", "no D3PO trained on HPSv2, and 1 more gap", {}),
        ("R4", "no RLCM and DDPO trained on Compressibility", {}),
        ("12", "a study", {"study": None}),
        ("Q1a", "a tuned control", {}),
        ("R2", "2 and 16", {}),
        ("9", "no ROCM with a divergence trained on CLIPScore", {}),
        ("14b", "gradients", {"gradients": {}}),
        # The gold judge is a judge, not a scorer that could have been trained on.
        ("1", "no scorer is held out", ONE_SCORER),
        ("3", "no scorer is held out", ONE_SCORER),
        ("4", "no scorer is held out", ONE_SCORER),
        ("6", "a held-out scorer", ONE_SCORER),
        ("13", "a held-out scorer", ONE_SCORER),
    ],
)
def test_a_claim_that_cannot_be_decided_says_what_is_missing(id, lacking, changes):
    config = make_wide_config(**({"seeds": [0, 1]} | changes))
    found = by_id(config, id, rehearsals=1)[id]
    assert lacking in found.missing and found.power == 0


def test_a_claim_that_can_be_decided_lacks_nothing(wide):
    decidable = {id for id, one in wide.items() if one.missing is None}
    assert decidable >= {*"2 3 4 6 7 10 11 12 13 14b R1".split()}
    assert "no snapshot of RLCM (inference_steps 8) trained on HPSv2 within" in wide["Q3a"].missing
    assert wide["11"].power == 1.0
    rates = {"methods": ["rocm-none"], "setting": "learning_rate", "values": [1e-4, 1e-3]}
    horizons = {"methods": ["rlcm"], "setting": "inference_steps", "values": [2, 8]}
    config = make_wide_config(seeds=[0, 1, 2], methods=FOUR, sweeps=[rates, horizons])
    found = by_id(config, "1", "5", "14a", rehearsals=1)
    assert [one.missing for one in found.values()] == [None] * 3


def test_a_gain_grows_as_beta_falls_until_there_is_no_divergence():
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [0, 0.001, 0.02, 0.1, 1.0]}
    drawn = Rehearsal(make_config(sweeps=[sweep]), assumed(), 0).results
    sources = {source.method: source for source in drawn.trained if source.reward == "hpsv2"}
    names = [f"rocm-kl--beta-{beta}" for beta in (1, 0.1, 0.02, 0.001, 0)]
    gains = [drawn.effect(sources[name], "hpsv2") for name in names]
    assert gains == sorted(gains) and gains[-2] == gains[-1]
    assert gains[-1] == drawn.effect(sources["rocm-none"], "hpsv2") > gains[0] > 0


def test_a_gold_judge_is_not_needed_for_beta():
    config = make_wide_config(metrics=["hpsv2", "aesthetic", "clipscore"], seeds=[0, 1])
    assert by_id(config, "7", rehearsals=1)["7"].missing is None


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_has_a_plan(name):
    config = load_config(ROOT / "config" / name)
    found = prospects(config, rehearsals=1)
    lines = [*costs(config), *claims(config, found)]
    of_jobs = 1 + 4  # their number, and eleven kinds in three columns, of a grid with all of them
    assert len(lines) + of_jobs <= 20
    assert all(re.search(rf"[ ,]{one.claim.id}\b", "".join(lines)) for one in found)
    each = [*each_claim({len(config.seeds): found})]
    listed = re.findall(r"^  (?:\d.\d\d|   –)  (\w+)", "\n".join(each), re.M)
    assert sorted(listed) == sorted(one.claim.id for one in found)
    assert all(len(line) <= 110 for line in [*lines, *each])
    hours = "GPU hours" if config.world == "paper" else "CPU hours"
    assert sum(line.startswith(hours) for line in lines) == 1
    missing = {one.claim.id for one in found if one.missing}
    contest = {"Q4a", "Q4b", "Q4c", "Q5"}  # which config/contest.yaml decides
    transfer = {"Q6a", "Q6b"}  # which config/transfer.yaml decides
    if name == "contest.yaml":
        assert not missing & contest
    if name == "transfer.yaml":
        assert not missing & transfer
    if name == "paper-small.yaml":  # without DPOK and D3PO, on Aesthetic and CLIPScore
        assert missing == {"1", "5", "8", "R4"} | contest | transfer
    if name == "paper.yaml":
        assert missing == {"4", "5", "14b", "R1", "R2", "R4", *contest, *transfer}
    if name == "shapes.yaml":  # the others are those of config/rlcm-shapes.yaml
        assert missing == {"R2", "R3", "R4"} | contest | transfer
    if name == "rlcm-shapes.yaml":
        assert not missing & {"R1", "R2", "R3", "R4"}


def test_the_small_paper_takes_a_day_of_one_gpu():
    config = load_config(ROOT / "config/paper-small.yaml")
    hours = sum(budget_of(config).teraflop.values()) / (GPUS["H100"] * REACHED[1]) / 3600
    assert hours < 24
    (line,) = [line for line in costs(config) if " H100" in line]
    assert float(line.split()[2]) == round(hours)


# --- operations


@pytest.mark.parametrize(
    ("method", "teraflop"),
    # The tables of docs/reproducing.md, in bfloat16.
    [("rocm-none", 19.6), ("rocm-kl", 30.8), ("rlcm", 34), ("ddpo", 170), ("dpok", 170)],
)
def test_an_image_of_a_training_takes_what_reproducing_says(method, teraflop):
    config = load_config(ROOT / "config/paper.yaml")
    cell = next(cell for cell in make_grid(config) if cell.method == method)
    work = training_work(config, cell.settings)
    assert work.teraflop(512) == pytest.approx(teraflop, rel=0.02)


@pytest.mark.parametrize(
    ("policy", "denoiser", "rocm", "rlcm"),
    # The table of docs/reproducing.md.
    [
        ("sdxl", "stable_diffusion_xl", 115, 129),
        ("pixart", "pixart", 121, 129),
        ("sana", "sana", 32, 30),
        ("sd3", "stable_diffusion_3", 472, 563),
        ("flux", "flux", 1008, 1235),
    ],
)
def test_an_image_of_another_network_takes_what_reproducing_says(policy, denoiser, rocm, rlcm):
    config = load_config(ROOT / "config/few-step.yaml")
    costs = costs_of(config, policy)
    assert costs is COSTS[denoiser]  # before any of its files is here
    for method, teraflop in ((f"direct-{policy}-kl", rocm), (f"ppo-{policy}", rlcm)):
        cell = next(cell for cell in make_grid(config) if cell.method == method)
        work = training_work(config, cell.settings)
        assert work.teraflop(1024, costs) == pytest.approx(teraflop, rel=0.02)


def test_a_plan_is_as_wide_as_the_terminal_and_cuts_no_word(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plan, "SNAKEFILE", tmp_path / "of a wheel, which has none")
    monkeypatch.setattr(plan, "prospects", lambda config: [])
    monkeypatch.setattr("sys.argv", ["plan", "--configfile", str(ROOT / "config/paper.yaml")])
    said = {}
    for columns in (60, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        plan.main()
        said[columns] = capsys.readouterr().out
        assert max(map(len, said[columns].splitlines())) <= min(columns, 100)
    assert said[60].split() == said[200].split()
    assert len(said[60].splitlines()) > len(said[200].splitlines())


def test_a_plan_counts_each_policy_as_its_own_network():
    config = load_config(ROOT / "config/few-step.yaml")
    needs, lines = budget_of(config), [*costs(config)]
    # Five networks, each 2,000 images with KL, JS and of RLCM.
    training = 2000 * sum(2 * a + b for a, b in [(115, 129), (121, 129), (32, 30)])
    training += 2000 * sum(2 * a + b for a, b in [(472, 563), (1008, 1235)])
    assert needs.teraflop["training"] == pytest.approx(training, rel=0.02)
    assert needs.unpriced == []
    assert any("  flux: FLUX.1, steps 102 GiB, blocks 35 GiB  " in line for line in lines)


def test_the_memory_of_a_plan_is_what_reproducing_says():
    """Its table, and into which GPUs a training fits by how much is checkpointed."""
    text = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
    table = text.partition("| checkpointed |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in table]
    known = {own.name: own.memory[own.side] for own in COSTS.values() if len(own.memory) == 1}
    assert {row[0]: (int(row[2]), int(row[3])) for row in rows} == known
    for _, nothing, step, block, *fits in rows:
        needs = {"without": int(nothing.split()[0]), "by steps": int(step), "by blocks": int(block)}
        for gigabytes, said in zip((24, 48, 80), fits, strict=True):
            room = gigabytes * 1e9 / 2**30
            assert said == next((how for how, gib in needs.items() if gib <= room), "no")


def few_step(**policy):
    """config/few-step.yaml with the policies consistency and diffusion alone, both as given."""
    changed = yaml.safe_load((ROOT / "config/few-step.yaml").read_text(encoding="utf-8"))
    changed["policies"] = dict.fromkeys(("consistency", "diffusion"), {"steps": 4} | policy)
    changed["methods"] = {"rocm-none": {}, "rocm-kl": {"beta": 0.1}}
    return parse_config(changed)


def test_a_plan_says_which_network_it_does_not_know():
    config = few_step(model="models/mine", guidance_scale=1.0)
    needs, lines = budget_of(config), [*costs(config)]
    assert needs.unpriced == ["consistency"] and needs.work["training"].forward > 0
    assert not any(needs.teraflop.values()) and needs.lora_bytes == 0
    assert "  consistency: models/mine is unknown: nothing of it is counted" in lines


def test_guidance_takes_a_second_pass_where_it_is_no_embedding():
    def passes(model, **more):
        config = few_step(model=model, guidance_scale=3.0, **more)
        (cell,) = [cell for cell in make_grid(config) if cell.method == "rocm-none"]
        return training_work(config, cell.settings).forward / cell.settings.inference_steps

    assert passes("weights/LCM_Dreamshaper_v7") == 1
    assert passes("weights/stable-diffusion-v1-5", lora="weights/lcm-lora-sdv1-5") == 2
    assert passes("weights/Sana_Sprint_1.6B_1024px") == 1
    assert passes("weights/PixArt-LCM-XL-2-1024-MS") == 2


def test_passes_are_those_that_the_study_counted():
    config = load_config(ROOT / "docs/results/earlier-world/config.yaml")
    cells = {(c.reward, c.method): c.settings for c in make_grid(config) if not c.swept}
    costs = pd.read_csv(ROOT / "docs/results/earlier-world/tables/costs.csv")
    for row in costs.to_dict("records"):
        settings = cells[row["reward"], row["method"]]
        images = settings.iterations * images_per_iteration(settings)
        assert images == row["total_reward_queries"]
        forward = training_work(config, settings, rounds=False).forward
        assert images * forward == row["total_nfe"]


def test_a_budget_counts_images_as_they_are_drawn():
    def work(**changes):
        return budget_of(make_config(**changes)).work["images and scores"].forward

    def trained_with(steps, prompts):
        training = {"inference_steps": steps, "snapshot_every": 10}
        drawn = {"snapshots": {"prompts": prompts}, "generation": {"inference_steps": 4}}
        return work(training=training, **drawn)

    assert trained_with(8, 0) == trained_with(2, 0) < trained_with(8, 8) == trained_with(2, 8)


def test_a_budget_counts_gradients_and_what_the_base_is_scored_for():
    config = make_config(seeds=[0, 1], snapshots={"prompts": 0})
    asked = {"gradients": {"methods": ["rocm-none", "rocm-kl"]}, "base_rewards": True}
    budgets = [
        budget_of(one)
        for one in (config, make_config(seeds=[0, 1], snapshots={"prompts": 0}, **asked))
    ]
    assert budgets[0].images == budgets[1].images  # which are kept
    before, after = (budget.work["images and scores"] for budget in budgets)
    free = (c.settings for c in make_grid(config) if c.method == "rocm-none")
    (alone,) = {training_work(config, settings) for settings in free}
    # Two rewards and seeds, 64 images by two methods, without the divergence, where two trainings
    # start and where each of them ends.
    gradients = alone * (2 * 2 * 2 * 3 * 64)
    queries = 2 * 40  # seeds, of 40 iterations of one image, by both rewards
    base = Work(forward=4 * queries, decoded=queries, scored=2 * queries)
    assert after == before + gradients + base


def test_gradients_are_measured_in_one_epoch_whatever_the_training_has():
    cells = {"aesthetic/rlcm": {"inner_epochs": 3}, "hpsv2/rlcm": {"inner_epochs": 3}}
    once, thrice = (budget_of(make_wide_config(cells=more)).work for more in ({}, cells))
    assert once["images and scores"] == thrice["images and scores"]
    assert once["training"] != thrice["training"]


def test_gradients_are_measured_without_the_divergence_and_so_without_its_gate():
    def scored(gate, **asked):
        method = {"rocm-kl": {"beta": 0.1, **gate}}
        config = make_config(rewards=["hpsv2"], methods=method, **asked)
        return budget_of(config).work["images and scores"].scored

    gate, measured = {"gate_by": "aesthetic"}, {"gradients": {"methods": ["rocm-kl"]}}
    assert scored(gate, **measured) - scored(gate) == scored({}, **measured) - scored({}) > 0


def test_a_budget_counts_every_cell_image_and_snapshot():
    config = make_config(seeds=[0, 1])
    cells, base = 2 * 3 * 2, 1
    found = budget_of(config)
    assert found.images == (cells + base) * 40 + cells * 4 * 16
    assert found.work["training"].scored == cells * 40 * 2 and found.work["searches"] == Work()
    assert found.guessed == []
    once = budget_of(make_config(seeds=[0]))
    assert found.work["training"].forward == 2 * once.work["training"].forward


def test_operations_grow_with_the_side():
    assert Work(forward=1).teraflop(768) == pytest.approx(2.16)
    assert Work(forward=1).teraflop() < Work(forward=1).teraflop(640) < 2.16
