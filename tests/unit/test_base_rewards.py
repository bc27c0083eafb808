"""What the base scores on the prompts and noise of trainings, and what is made of it."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from synthetic import make_wide_config, write_results

import rocm_core.training.trainer
from rocm_core.analysis import Results, curves
from rocm_core.configuration import type_config
from rocm_core.errors import UserError
from rocm_core.grid import Artefacts, base_runs, make_grid, shown
from rocm_core.grid.base_rewards import starts_in_pairs
from rocm_core.tables import costs
from rocm_core.training import Trainer, score_base


def scored(settings, tmp_path, pairs=False):
    output = tmp_path / "base.csv"
    score_base({"brightness": settings}, tiny.PROMPTS, pairs, output, "f00d")
    return pd.read_csv(output)["value"].tolist()


def trained(settings, steps):
    from accelerate import Accelerator

    run = Trainer(settings, tiny.PROMPTS, "", Accelerator())
    return [run.iterate(step)["reward"] for step in range(1, steps + 1)]


def test_a_score_of_the_base_that_is_not_finite_ends_the_job(model, monkeypatch, tmp_path):
    class Broken(tiny.Brightness):
        def score(self, images, prompts):
            return super().score(images, prompts) * float("nan")

    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda *_: Broken())
    with pytest.raises(UserError, match="brightness gives a score that is not finite"):
        scored(tiny.settings(model=model, divergence="none", beta=0.0), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, False),
        ({"algorithm": "ppo", "images_per_prompt": 4, "accumulation_steps": 2}, False),
        ({"algorithm": "d3po", "divergence": "kl", "beta": 0.1, "images_per_prompt": 2}, True),
    ],
)
def test_a_training_that_learns_nothing_has_the_base_s_rewards(
    model, reward, tmp_path, changes, pairs
):
    base = scored(tiny.settings(model=model, iterations=4, **without(changes)), tmp_path, pairs)
    settings = tiny.settings(model=model, iterations=4, learning_rate=0.0, **changes)
    assert starts_in_pairs(settings) == pairs
    assert trained(settings, 4) == pytest.approx(base, rel=1e-5)
    assert np.std(base) > 1e-3  # it follows the prompts drawn
    learning = trained(settings.model_copy(update={"learning_rate": 0.3}), 4)
    assert learning[0] == pytest.approx(base[0], rel=1e-5)
    assert learning[3] != pytest.approx(base[3], rel=1e-3)


def without(changes):
    """Of a training that changes nothing."""
    return {k: v for k, v in changes.items() if k not in ("algorithm", "divergence", "beta")}


def test_trainings_share_what_the_base_makes_of_the_same_prompts_and_noise():
    changes = {"d3po": {"images_per_prompt": 2, "batch_size": 2, "beta": 0.1}}
    methods = make_wide_config().to_dict()["methods"]
    assert {"rocm-none", "rocm-kl", "rlcm", "ddpo", "dpok"} == methods.keys()
    config = make_wide_config(base_rewards=True, methods=methods | changes)
    cells = make_grid(config)
    found = base_runs(config, cells)
    assert found.keys() == {cell.name for cell in cells}
    of = {name: run.key for name, run in found.items()}
    together = [
        f"{reward}/{method}/seed-0"
        for reward in ("hpsv2", "aesthetic")
        for method in ("rocm-none", "rocm-kl", "rocm-kl--beta-0.5", "rlcm")
    ]
    assert len({of[name] for name in together}) == 1
    assert set(found[together[0]].settings) == {"hpsv2", "aesthetic"}
    others = [
        "hpsv2/rocm-none/seed-1",  # another order of prompts
        "hpsv2/ddpo/seed-0",  # another base
        "hpsv2/d3po/seed-0",  # pairs
        "hpsv2/rlcm--inference_steps-8/seed-0",
    ]
    assert len({of[name] for name in [together[0], *others]}) == 1 + len(others)
    assert found["hpsv2/d3po/seed-0"].pairs and not found["hpsv2/ddpo/seed-0"].pairs
    assert base_runs(make_wide_config(), cells) == {}
    one = make_wide_config(base_rewards=True, rewards=["hpsv2"], study=None)
    alone = base_runs(one, make_grid(one))["hpsv2/rocm-none/seed-0"]
    assert alone.key != of["hpsv2/rocm-none/seed-0"]  # whose file has another reward, too
    assert len(Artefacts(config).base_reward_files()) == len(set(of.values()))


def test_curves_show_what_was_gained_over_the_base(tmp_path):
    plain, config = make_wide_config(), make_wide_config(base_rewards=True)
    effects = {("hpsv2", "rlcm"): {"slope": 0.002}}
    for name, one in (("plain", plain), ("gains", config)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, one, effects)
    results = Results(config, tmp_path / "gains")
    own, other = (
        curves(r, "hpsv2", ["rlcm"])["rlcm"] for r in (results, Results(plain, tmp_path / "plain"))
    )
    # What the base scores is 0.3, and here as far up as the prompts drawn.
    assert own["mean"].to_numpy() == pytest.approx(other["mean"].to_numpy() - 0.3)
    assert "less what the base scores" in costs.make(results).caption
    assert "less what the base scores" not in costs.make(Results(plain, tmp_path / "plain")).caption
    raw = results.history(results.sources("hpsv2", "rlcm")[0], ["reward"])["reward"]
    assert raw.max() > 6  # figure 5 shows it as it is


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_a_rendering_looks_for_what_the_base_scored_with_as_many_gpus(gpus):
    """It is not given `resources`, of which the number of processes alone counts."""
    config = make_wide_config(base_rewards=True, resources={"gpus": gpus, "memory_gib": 7})
    given = type_config(json.loads(json.dumps(shown(config))))
    made, sought = (base_runs(one, make_grid(one)) for one in (config, given))
    assert {name: run.key for name, run in made.items()} == {n: r.key for n, r in sought.items()}
    assert given.resources.memory_gib != 7


@pytest.mark.faults  # for its time
def test_a_base_that_lacks_steps_is_refused(tmp_path):
    config = make_wide_config(base_rewards=True)
    write_results(tmp_path, config)
    for file in (tmp_path / "base_rewards" / "consistency").glob("*.csv"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-4]))
    with pytest.raises(UserError, match="lacks steps of hpsv2/rlcm/seed-0; remake it"):
        curves(Results(config, tmp_path), "hpsv2", ["rlcm"])


@pytest.mark.faults  # for its time
def test_a_missing_score_of_the_base_is_a_gap(tmp_path):
    config = make_wide_config(base_rewards=True, partial=True)
    write_results(tmp_path, config)
    for file in (tmp_path / "base_rewards" / "diffusion").glob("*.csv"):
        file.unlink()
    results = Results(config, tmp_path)
    assert any(gap.startswith("base_rewards/diffusion/") for gap in results.gaps)
    assert curves(results, "hpsv2", ["ddpo", "rlcm"]).keys() == {"rlcm"}
