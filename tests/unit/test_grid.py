"""The grid: the cells that a configuration asks for, each once, each with what it really uses."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import tiny
import yaml

from rocm_core import errors, grid
from rocm_core.algorithms import load_settings
from rocm_core.configuration import Config
from rocm_core.errors import UserError
from rocm_core.grid import (
    generation_settings,
    job_code,
    make_grid,
    parse_config,
    parse_method,
    shown_sections,
    snapshot_steps,
    table,
)
from rocm_core.grid.methods import Method
from rocm_core.plugins import ROOT, names
from rocm_core.provenance import folder_digest


def make_config(**changes) -> Config:
    values = {
        "name": "grid",
        "policies": {"consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0}},
        "scorers": {"hpsv2": "scorers/hpsv2", "aesthetic": "scorers/aesthetic"},
        "prompts": {
            "train": {"source": "shapes", "count": 32},
            "validation": {"source": "shapes", "count": 8},
        },
        "rewards": ["hpsv2", "aesthetic"],
        "methods": {"rocm-none": None, "rocm-kl": {"beta": 0.05}},
        "training": {"learning_rate": 1e-3, "iterations": 10, "snapshot_every": 4},
    }
    return parse_config(values | changes)


def cells_of(**changes):
    return {cell.name: cell for cell in make_grid(make_config(**changes))}


def test_a_grid_is_rewards_times_methods_times_seeds():
    names = [
        f"{reward}/{method}/seed-{seed}"
        for reward in ("hpsv2", "aesthetic")
        for method in ("rocm-none", "rocm-kl")
        for seed in (0, 3)
    ]
    assert list(cells_of(seeds=[0, 3])) == names


def test_a_cell_carries_all_that_it_uses():
    cell = cells_of()["hpsv2/rocm-kl/seed-0"].settings
    assert (cell.reward, cell.scorer) == ("hpsv2", "scorers/hpsv2")
    assert (cell.policy, cell.model, cell.inference_steps) == ("consistency", "base", 4)
    assert (cell.algorithm, cell.divergence, cell.beta) == ("direct", "kl", 0.05)
    assert (cell.learning_rate, cell.adam_betas, cell.lora_rank) == (1e-3, (0.9, 0.999), 16)
    assert snapshot_steps(cell) == [4, 8, 10]  # the last step too
    dense = cell.model_copy(update={"snapshot_at": (6, 2, 8, 12)})
    assert snapshot_steps(dense) == [2, 4, 6, 8, 10]


def test_settings_of_a_cell_override_those_of_its_method_and_these_the_shared_ones():
    cells = cells_of(
        methods={"rocm-none": {}, "rocm-kl": {"beta": 0.05, "iterations": 20}},
        cells={"aesthetic/rocm-kl": {"beta": 0.5, "guidance_scale": 5}},
    )
    shared, method = (
        cells["hpsv2/rocm-none/seed-0"].settings,
        cells["hpsv2/rocm-kl/seed-0"].settings,
    )
    own = cells["aesthetic/rocm-kl/seed-0"].settings
    assert (shared.iterations, method.iterations, own.iterations) == (10, 20, 20)
    assert (method.beta, own.beta) == (0.05, 0.5)
    assert (method.guidance_scale, own.guidance_scale) == (3.0, 5.0)


def test_a_setting_without_effect_on_a_cell_does_not_change_it():
    plain = cells_of()
    changed = cells_of(
        training={"learning_rate": 1e-3, "iterations": 10, "snapshot_every": 4}
        | {"reference_gradient": "stop", "reduction": "mean"}
    )
    none, kl = "hpsv2/rocm-none/seed-0", "hpsv2/rocm-kl/seed-0"
    assert changed[none] == plain[none]
    expected = {"reference_gradient": "stop", "reduction": "mean"}
    assert changed[kl].settings == plain[kl].settings.model_copy(update=expected)


def test_one_cells_beta_changes_that_cell_only():
    plain, changed = cells_of(), cells_of(cells={"hpsv2/rocm-kl": {"beta": 0.1}})
    assert [name for name in plain if plain[name] != changed[name]] == ["hpsv2/rocm-kl/seed-0"]


def test_resources_and_rendering_change_no_cell():
    resources = {"threads": 8, "gpus": 2, "memory_gib": 64, "runtime_minutes": 5}
    assert cells_of(resources=resources, partial=True, snapshots={"prompts": 2}) == cells_of()


def test_reverse_kl_is_kl_and_never_trained_twice():
    both = {"rocm-kl": {"beta": 0.05}, "rocm-reverse-kl": {"beta": 0.05}}
    only = cells_of(methods={"rocm-kl": {"beta": 0.05}})
    assert cells_of(methods=both) == only
    assert cells_of(methods={"rocm-reverse-kl": {"beta": 0.05}}) == only
    with pytest.raises(UserError, match="hpsv2/rocm-kl/seed-0, with different settings"):
        cells_of(methods=both | {"rocm-reverse-kl": {"beta": 0.1}})


def with_diffusion(**changes):
    policies = {
        "consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0},
        "diffusion": {"model": "other", "steps": 20, "guidance_scale": 5.0},
    }
    return cells_of(policies=policies, rewards=["hpsv2"], **changes)


def test_the_baselines_are_algorithms_on_policies():
    paired = {"beta": 0.1, "images_per_prompt": 2, "batch_size": 2}
    cells = with_diffusion(methods={"rlcm": {}, "ddpo": {}, "dpok": {"beta": 0.01}, "d3po": paired})
    found = {
        name.split("/")[1]: (
            cell.settings.algorithm,
            cell.settings.policy,
            cell.settings.divergence,
        )
        for name, cell in cells.items()
    }
    assert found == {
        "rlcm": ("ppo", "consistency", "none"),
        "ddpo": ("ppo", "diffusion", "none"),
        "dpok": ("dpok", "diffusion", "epsilon"),
        "d3po": ("d3po", "diffusion", "kl"),
    }
    ddpo, d3po = cells["hpsv2/ddpo/seed-0"].settings, cells["hpsv2/d3po/seed-0"].settings
    assert (ddpo.model, ddpo.inference_steps, ddpo.guidance_scale) == ("other", 20, 5.0)
    assert (ddpo.ratio_clip, d3po.ratio_clip) == (1e-4, 0.1)  # each algorithm's own
    assert ddpo.beta == 0 and d3po.beta == 0.1


def test_spelled_out_methods_have_one_name_and_one_cell():
    spelled = {
        "ppo-consistency": "rlcm",
        "ppo-diffusion-none": "ddpo",
        "dpok-diffusion-epsilon": "dpok",
        "dpok-diffusion-reverse-kl": "dpok-diffusion-kl",
        "d3po-diffusion-kl": "d3po",
        "direct-consistency": "rocm-none",
        "direct-consistency-total-variation": "rocm-total-variation",
        "rocm-reverse-kl": "rocm-kl",
        "direct-diffusion-none": "direct-diffusion",
        "ppo-consistency-js-sampled": "ppo-consistency-js-sampled",
    }
    for name, canonical in spelled.items():
        found, meaning = parse_method(name, "key")
        assert found == canonical and parse_method(canonical, "key") == (canonical, meaning)
    same = {"rlcm": {}, "ppo-consistency": {}, "ppo-consistency-none": {}}
    assert list(with_diffusion(methods=same)) == ["hpsv2/rlcm/seed-0"]
    for nonsense in ("rocm-", "ppo-consistency-", "ppo", "ppo-consistency-jss", "rlcm-kl"):
        with pytest.raises(UserError, match="methods.x"):
            parse_method(nonsense, "methods.x")


def test_a_setting_of_another_algorithm_does_not_change_a_cell():
    training = {"learning_rate": 1e-3, "iterations": 10, "snapshot_every": 4}
    methods = {"rocm-none": {}, "rlcm": {}, "ddpo": {}, "dpok": {"beta": 0.01}}
    plain = with_diffusion(methods=methods, training=training)

    def changed(**settings):
        cells = with_diffusion(methods=methods, training=training | settings)
        return [name.split("/")[1] for name in plain if plain[name] != cells[name]]

    assert changed(inner_epochs=2, ratio_clip=0.1) == ["rlcm", "ddpo", "dpok"]
    assert changed(value_updates=7) == ["dpok"]
    assert changed(horizon="released") == ["rlcm"]
    assert changed(prompt_buffer=20, advantage_clip=5) == ["rlcm", "ddpo"]
    assert changed(memory=8, reference_gradient="stop") == ["rocm-none"]
    assert changed(prompt_buffer_minimum=3, prompt_buffer=0) == changed(prompt_buffer=0)


@pytest.mark.parametrize("package", ["rocm_core/algorithms", "my_algorithms"])
def test_the_documented_algorithm_and_its_setting_are_a_method(package, tmp_path):
    """By its file alone, in a copy of the package or outside of it, and a line of a config."""
    shutil.copytree(ROOT / "rocm_core", tmp_path / "checkout" / "rocm_core")
    place = tmp_path / "checkout" if package.startswith("rocm_core") else tmp_path
    (place / package).mkdir(exist_ok=True)
    source = tiny.documented("rocm_core/algorithms/weighted.py")
    (place / package / "weighted.py").write_text(source)
    algorithm = "weighted" if package.startswith("rocm_core") else "my_algorithms.weighted"
    values = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    values |= {"cells": {}, "sweeps": [], "seeds": [0]}

    def cells(settings):
        config = values | {"methods": {f"{algorithm}-consistency": settings, "rocm-none": None}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "rocm_core.commands.cells"]
        return subprocess.run(
            [*command, "--configfile", "../config.yaml"],
            cwd=tmp_path / "checkout",
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    header, first, *_ = cells({"temperature": 2}).stdout.splitlines()
    assert first.split()[0] == f"{values['rewards'][0]}/{algorithm}-consistency/seed-0"
    for settings, said in [
        ({"temperature": "warm"}, "temperature must be a number from 0.001 to 1000, not 'warm'"),
        ({"temprature": 1}, "temprature is not a key of the configuration; did you mean temperatu"),
        ({"ratio_clip": 0.1}, f"ratio_clip has no effect on {algorithm}: remove it"),
    ]:
        assert f"{algorithm}-consistency.{said}" in cells(settings).stderr


def test_names_of_other_packages_are_part_of_a_methods_name(tmp_path, monkeypatch):
    source = tiny.documented("rocm_core/algorithms/weighted.py")
    divergence = (ROOT / "rocm_core" / "divergences" / "chi2.py").read_text()
    for path, text in [("my_algorithms/re_weighted", source), ("my_things/some_chi2", divergence)]:
        (tmp_path / path).parent.mkdir()
        (tmp_path / f"{path}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name, parts in {
        "my_algorithms.re_weighted-consistency": ("consistency", "none"),
        "my_algorithms.re_weighted-diffusion-kl": ("diffusion", "kl"),
        "my_algorithms.re_weighted-consistency-my_things.some_chi2": (
            "consistency",
            "my_things.some_chi2",
        ),
    }.items():
        canonical, meaning = parse_method(name, "key")
        assert canonical == name
        assert meaning == Method("my_algorithms.re_weighted", *parts)
    rocm = Method("direct", "consistency", "my_things.some_chi2")
    for name in ("rocm-my_things.some_chi2", "direct-consistency-my_things.some_chi2"):
        assert parse_method(name, "key") == ("rocm-my_things.some_chi2", rocm)
    tuned = Method("ppo", "tuned-lcm", "kl")
    assert parse_method("ppo-tuned-lcm-kl", "key", ["tuned-lcm"]) == ("ppo-tuned-lcm-kl", tuned)
    for missing in (
        "my_algorithms.lost-consistency",
        "rocm-my_things.lost",
        "my_algorithms.re_wei",
    ):
        with pytest.raises(UserError, match="methods.x"):
            parse_method(missing, "methods.x")


def test_a_sweep_adds_its_values_to_the_name_and_repeats_no_cell():
    sweep = {"rewards": ["hpsv2"], "methods": ["rocm-kl"], "setting": "beta"}
    cells = cells_of(sweeps=[sweep | {"values": [1e-5, 0.05, 1]}])
    assert list(cells)[4:] == ["hpsv2/rocm-kl--beta-1e-05/seed-0", "hpsv2/rocm-kl--beta-1/seed-0"]
    swept = cells["hpsv2/rocm-kl--beta-1/seed-0"].settings
    assert swept == cells["hpsv2/rocm-kl/seed-0"].settings.model_copy(update={"beta": 1.0})


def test_any_setting_can_be_swept():
    sweep = {"methods": ["rocm-kl", "rocm-none"], "setting": "inference_steps", "values": [2, 8]}
    cells = cells_of(sweeps=[sweep])
    assert len(cells) == 4 + 2 * 2 * 2
    assert cells["aesthetic/rocm-none--inference_steps-8/seed-0"].settings.inference_steps == 8


def test_further_snapshots_are_of_the_final_training_and_change_no_other():
    search = {"beta": {"search": [0.1, 1.0], "iterations": 5}, "snapshot_at": [1]}
    cells = cells_of(methods={"rocm-none": {}, "rocm-kl": search}, rewards=["hpsv2"])
    final, *trials = (cell.settings for cell in cells.values() if cell.method == "rocm-kl")
    assert final.snapshot_at == (1,) and snapshot_steps(final)[0] == 1
    assert len(trials) == 2 and not any(snapshot_steps(trial) for trial in trials)
    others = [*trials, cells["hpsv2/rocm-none/seed-0"].settings]
    assert not any("snapshot_at" in settings.to_dict() for settings in others)
    with pytest.raises(UserError, match="snapshot_at adds to others: set snapshot_every above 0"):
        cells_of(methods={"rocm-none": {"snapshot_at": [1], "snapshot_every": 0}})


def test_a_setting_that_is_newer_than_a_drawing_leaves_it_valid():
    config = make_config()
    assert config.training["snapshot_at"] is None
    given = {key: value for key, value in config.training.items() if key != "snapshot_at"}
    older = config.model_copy(update={"training": given})  # by a version that does not know it
    shown = shown_sections(config, "table", "table1")
    assert shown_sections(older, "table", "table1") == shown
    given = config.training | {"snapshot_at": [1]}
    other = shown_sections(config.model_copy(update={"training": given}), "table", "table1")
    assert {key for key in shown if shown[key] != other[key]} == {"training"}


def test_a_swept_value_may_be_a_list_of_numbers():
    sweeps = [
        {"methods": ["rocm-none"], "setting": "truncate", "values": [1, [1, 4]]},
        {"methods": ["rocm-kl"], "setting": "step_weights", "values": [[0.5, 1, 2.5]]},
    ]
    cells = cells_of(sweeps=sweeps, rewards=["hpsv2"])
    drawn = cells["hpsv2/rocm-none--truncate-1-4/seed-0"]
    assert drawn.settings.truncate == (1, 4) and drawn.swept == (("truncate", (1, 4)),)
    weighed = cells["hpsv2/rocm-kl--step_weights-0.5-1-2.5/seed-0"]
    assert weighed.settings.step_weights == (0.5, 1.0, 2.5)
    for given in ([1, 2, 3], ["a"]):
        with pytest.raises(UserError, match="must be a .* or a list of"):
            cells_of(sweeps=[sweeps[0] | {"values": [given]}])


def test_every_divergence_with_a_file_is_a_method():
    methods = {f"rocm-{name.replace('_', '-')}": {"beta": 1} for name in grid_divergences()}
    cells = cells_of(methods=methods, rewards=["hpsv2"])
    assert {cell.settings.divergence for cell in cells.values()} == set(grid_divergences())


def grid_divergences():
    from rocm_core.plugins import facts, names

    return [name for name in names("divergences") if not facts("divergences", name)["ALIAS_OF"]]


def test_settings_survive_json_and_refuse_what_they_do_not_know():
    settings = cells_of()["hpsv2/rocm-kl/seed-0"].settings
    values = settings.to_dict()
    assert load_settings(values) == settings
    for wrong, said in [
        ({"betta": 1}, "^betta is not a key of the configuration; did you mean beta?"),
        ({"ratio_clip": 0.1}, "^ratio_clip is not a key"),  # but of another algorithm
        (
            {"beta": "auto"},
            "^beta must be a number from 0 to 1000000000 or {target: divergence, start: β} or"
            r" {search: \[values\], iterations: n}, not 'auto'",
        ),
        ({"iterations": 1.5}, "^iterations must be a whole number from 1 to 100000000, not 1.5"),
        ({"iterations": True}, "^iterations must be a whole number .* not true"),
        ({"iterations": "10"}, "^iterations must be a whole number .* not '10'"),
        (
            {"learning_rate": 10**400},
            "^learning_rate must be a number from 0 to 1000 or .*, not 1000",
        ),
        ({"learning_rate": float("nan")}, "^learning_rate must be a finite number"),
        ({"lora_targets": "to_q"}, "^lora_targets must be a list"),
        ({"adam_betas": [0.9]}, "^adam_betas must be a list of two numbers"),
        ({"reduction": "max"}, "^reduction must be sum or mean, not 'max'"),
        ({"algorithm": 3}, "^algorithm must be the name of an algorithm, not 3"),
        ({"algorithm": "indirect"}, "^algorithm: .* 'indirect'; did you mean direct?"),
    ]:
        with pytest.raises(UserError, match=said):
            load_settings(values | wrong)
    assert load_settings(values | {"iterations": 12.0, "learning_rate": 1}) == settings.model_copy(
        update={"iterations": 12, "learning_rate": 1.0}
    )
    del values["model"]
    with pytest.raises(UserError, match="^model is missing: Local folder of its weights"):
        load_settings(values)


def test_images_of_every_source_differ_by_the_weights_alone():
    config = make_config(generation={"seed": 7, "batch_size": 5})
    of_cells = {generation_settings(config, cell) for cell in make_grid(config)}
    assert of_cells == {generation_settings(config, "consistency")}
    settings = of_cells.pop()
    assert (settings.model, settings.inference_steps, settings.guidance_scale) == ("base", 4, 3.0)
    assert (settings.seed, settings.batch_size) == (7, 5)
    eight = make_config(generation={"inference_steps": 8})
    assert generation_settings(eight, "consistency").inference_steps == 8


def test_each_job_depends_on_its_own_modules_only():
    kl = cells_of()["hpsv2/rocm-kl/seed-0"].settings
    prints = {job_code("train", kl)}
    for change in ({"divergence": "js"}, {"divergence": "none"}, {"reward": "aesthetic"}):
        prints.add(job_code("train", kl.model_copy(update=change)))
    assert len(prints) == 4
    assert job_code("train", kl) == job_code("train", kl.model_copy(update={"beta": 9.0}))
    assert job_code("score", metrics=["hpsv2"]) != job_code("score", metrics=["hpsv2", "aesthetic"])


def test_the_table_shows_each_cell_and_the_settings_that_differ():
    lines = table(make_grid(make_config(cells={"hpsv2/rocm-kl": {"lora_rank": 2}}))).splitlines()
    header = "cell beta learning_rate batch_size iterations lora_rank"
    assert lines[0].split() == header.split()
    assert lines[2].split() == ["hpsv2/rocm-kl/seed-0", "0.05", "0.001", "1", "10", "2"]
    assert len(lines) == 6 and lines[-1] == "4 cells"
    search = {
        "rocm-kl": {"beta": 0.05, "learning_rate": {"search": [0.001, 6e-5], "iterations": 5}}
    }
    first, *trials = table(make_grid(make_config(methods=search))).splitlines()[1:4]
    assert first.split()[:3] == ["hpsv2/rocm-kl/seed-0", "0.05", "0.001|6e-05"]
    assert [line.split()[2] for line in trials] == ["0.001", "6e-05"]


BOTH = {
    "consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0},
    "diffusion": {"model": "teacher", "steps": 20, "guidance_scale": 3.0},
}


def test_settings_of_a_reward_reach_its_methods_and_are_ignored_where_without_effect():
    cells = cells_of(
        methods={"rocm-none": {}, "rlcm": {"iterations": 7}},
        cells={"hpsv2": {"iterations": 9, "ratio_clip": 0.5}, "hpsv2/rlcm": {"lora_rank": 2}},
    )
    rocm, rlcm = (cells[f"hpsv2/{method}/seed-0"].settings for method in ("rocm-none", "rlcm"))
    assert (rocm.iterations, rlcm.iterations, rlcm.ratio_clip, rlcm.lora_rank) == (9, 9, 0.5, 2)
    assert "ratio_clip" not in rocm.to_dict()
    assert cells["aesthetic/rlcm/seed-0"].settings.iterations == 7
    with pytest.raises(UserError, match="cells.hpsv2/rocm-none.ratio_clip has no effect on direct"):
        cells_of(cells={"hpsv2/rocm-none": {"ratio_clip": 0.5}})


def test_null_and_false_ask_for_nothing():
    nothing = {"truncate": None, "stop_input": False, "gate_by": None}
    for method in ("rlcm", "rocm-none"):
        plain, asking = (cells_of(methods={method: given}) for given in ({}, nothing))
        assert plain == asking


def test_a_cell_set_to_null_is_not_there_nor_swept():
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [1.0]}
    cells = cells_of(cells={"hpsv2/rocm-kl": None}, sweeps=[sweep])
    assert list(cells) == [
        "hpsv2/rocm-none/seed-0",
        "aesthetic/rocm-none/seed-0",
        "aesthetic/rocm-kl/seed-0",
        "aesthetic/rocm-kl--beta-1/seed-0",
    ]
    with pytest.raises(UserError, match="cells.hpsv2 is null: remove hpsv2 from rewards"):
        cells_of(cells={"hpsv2": None})
    every = {f"{r}/{m}": None for r in ("hpsv2", "aesthetic") for m in ("rocm-none", "rocm-kl")}
    with pytest.raises(UserError, match="null for every cell"):
        cells_of(cells=every)


def test_rocm_cannot_train_on_a_reward_without_a_gradient():
    jpeg = {"scorers": {"jpeg_compressibility": None}, "rewards": ["jpeg_compressibility"]}
    with pytest.raises(UserError, match="set cells.jpeg_compressibility/rocm-none to null"):
        cells_of(**jpeg, methods={"rocm-none": {}, "rlcm": {}})
    left = cells_of(
        **jpeg,
        methods={"rocm-none": {}, "rlcm": {}},
        cells={"jpeg_compressibility/rocm-none": None},
    )
    assert list(left) == ["jpeg_compressibility/rlcm/seed-0"]


def test_a_product_of_settings_is_swept_once_each():
    sweep = {"methods": ["rocm-kl"], "setting": "learning_rate", "values": [1e-3, 1e-2]}
    sweep |= {"rewards": ["hpsv2"], "cross": {"beta": [0.05, 0.5]}}
    names = [name for name in cells_of(sweeps=[sweep]) if "--" in name]
    # The first combination is the method as it stands.
    assert names == [
        "hpsv2/rocm-kl--learning_rate-0.001--beta-0.5/seed-0",
        "hpsv2/rocm-kl--learning_rate-0.01--beta-0.05/seed-0",
        "hpsv2/rocm-kl--learning_rate-0.01--beta-0.5/seed-0",
    ]
    for wrong, said in [
        ({"cross": {"betta": [1]}}, r"sweeps\[0\].cross: 'betta' is unknown; did you mean beta"),
        ({"cross": {"beta": ["often"]}}, r"sweeps\[0\].cross.beta must be"),
    ]:
        with pytest.raises(UserError, match=said):
            cells_of(sweeps=[sweep | wrong])


def test_a_cell_trains_on_the_prompt_set_that_it_names():
    sets = {
        "train": {"source": "shapes", "count": 32},
        "small": {"source": "shapes", "count": 4},
        "validation": {"source": "shapes", "count": 8},
        "unseen": {"source": "shapes", "count": 8, "seed": 1},
    }
    config = make_config(prompts=sets, cells={"hpsv2": {"prompts": "small"}})
    cells = make_grid(config)
    assert {c.reward: c.settings.prompts for c in cells} == {"hpsv2": "small", "aesthetic": "train"}
    assert grid.training_sets(cells) == ["small", "train"]
    assert grid.evaluation_sets(config, cells) == ["validation", "unseen"]
    for name, said in [("smal", "did you mean small"), ("validation", "name another set")]:
        with pytest.raises(UserError, match=said):
            make_config(prompts=sets, cells={"hpsv2": {"prompts": name}})


def test_images_are_made_of_every_set_once_and_of_the_validation_prompts_at_every_step():
    config = make_config(
        policies=BOTH,
        methods={"rocm-kl": {"beta": 1.0}, "ddpo": {}},
        prompts={
            "train": {"source": "shapes", "count": 32},
            "validation": {"source": "shapes", "count": 8},
            "unseen": {"source": "shapes", "count": 8, "seed": 1},
        },
        sweeps=[{"methods": ["ddpo"], "setting": "learning_rate", "values": [0.5]}],
        generation={"inference_steps": [None, 1, 4]},
    )
    cells = {cell.name: cell for cell in make_grid(config)}

    def sets(source):
        return grid.sample_sets(config, ["validation", "unseen"], source)

    assert sets("consistency") == [("validation", 4), ("unseen", 4), ("validation", 1)]
    ddpo = [("validation", 20), ("unseen", 20), ("validation", 1), ("validation", 4)]
    assert sets("diffusion") == sets(cells["hpsv2/ddpo/seed-0"]) == ddpo
    assert sets(cells["hpsv2/ddpo--learning_rate-0.5/seed-0"]) == [("validation", 20)]
    assert generation_settings(config, "diffusion").inference_steps == 20
    assert generation_settings(config, "diffusion", 4).inference_steps == 4


DIFFUSION = {"model": "resources/shapes/diffusion", "steps": 1, "guidance_scale": 3.0}
SHORT = {"consistency": {"model": "base", "steps": 1, "guidance_scale": 3.0}}
SHORT |= {"diffusion": DIFFUSION}
# Of the methods that are over steps which draw noise, what says so of a chain without any.
OVER_NOISE = {
    **{f"rocm-{name.replace('_', '-')}": "divergence" for name in names("divergences")},
    **{"rlcm": "ppo", "ddpo": "ppo", "dpok": "divergence", "d3po": "divergence"},
    **{"ppo-consistency-kl": "divergence", "dpok-consistency-js": "divergence"},
    "direct-diffusion-kl": "divergence",
}


@pytest.mark.parametrize("beta", [0.1, {"target": 1.0, "start": 0.1}])
@pytest.mark.parametrize("method", OVER_NOISE)
def test_a_chain_without_noise_is_refused_for_what_is_over_it(method, beta):
    layer = {"batch_size": 2, "images_per_prompt": 2, "snapshot_every": 0}
    if OVER_NOISE[method] == "divergence":
        layer["beta"] = beta if method.startswith("rocm") else 0.1
    with pytest.raises(UserError) as error:
        make_config(policies=SHORT, methods={method: layer})
    said = str(error.value)
    assert said.startswith(f"methods.{method}: ") and OVER_NOISE[method] in said
    assert "steps that draw noise" in said and "raise policies." in said and "\n" not in said


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("inference_steps of training", {"training": {"inference_steps": 1}}),
        ("inference_steps of methods.rocm-kl", {"methods": {"rocm-kl": {"inference_steps": 1}}}),
        (
            "inference_steps of cells.hpsv2/rocm-kl",
            {"cells": {"hpsv2/rocm-kl": {"inference_steps": 1}}},
        ),
        ("inference_steps of cells.aesthetic", {"cells": {"aesthetic": {"inference_steps": 1}}}),
        (
            "inference_steps of sweeps[0].values",
            {"sweeps": [{"methods": ["rocm-kl"], "setting": "inference_steps", "values": [2, 1]}]},
        ),
        (
            "inference_steps of sweeps[0].values",
            {
                "sweeps": [
                    {"methods": ["rocm-kl"], "setting": "beta", "values": [1, 2]}
                    | {"cross": {"inference_steps": [4, 1]}}
                ]
            },
        ),
        ("policies.consistency.steps", {"policies": SHORT}),
    ],
)
def test_whatever_makes_a_chain_one_step_long_is_named(place, changes):
    values = {"methods": {}} | changes
    values["methods"] = {"rocm-kl": {"beta": 0.1} | values["methods"].get("rocm-kl", {})}
    with pytest.raises(UserError, match=f"raise {re.escape(place)}$"):
        make_config(**values)


def test_one_step_is_enough_for_what_needs_no_noise():
    """No divergence; RLCM's release, which draws in the last step; a chain that draws there."""
    assert len(cells_of(policies=SHORT, methods={"rocm-none": None})) == 2
    assert len(cells_of(policies=SHORT, methods={"rlcm": {"horizon": "released"}})) == 2
    drawing = {**SHORT, "diffusion": DIFFUSION | {"model": "no/schedule/yet"}}
    assert len(cells_of(policies=drawing, methods={"ddpo": None})) == 2
    sweep = {"methods": ["rocm-none"], "setting": "inference_steps", "values": [1, 2]}
    assert len(cells_of(sweeps=[sweep])) == 8
    assert len(cells_of(generation={"inference_steps": [None, 1]})) == 4


def drawn_steps(config):
    artefacts = grid.Artefacts(config)
    return {name: artefacts.generation(name).inference_steps for name in artefacts.sources}


def test_images_are_made_with_the_steps_that_all_cells_are_trained_with(capsys):
    trained = {"learning_rate": 1e-3, "iterations": 10, "inference_steps": 2}
    assert set(drawn_steps(make_config(training=trained)).values()) == {2}  # the base's, too
    swept = {"methods": ["rocm-kl"], "setting": "inference_steps", "values": [3]}
    assert set(drawn_steps(make_config(sweeps=[swept])).values()) == {4}
    named = make_config(training=trained, generation={"inference_steps": [4, 2]})
    assert set(drawn_steps(named).values()) == {4}
    assert capsys.readouterr().err == ""


def test_cells_whose_steps_no_image_is_made_with_are_named(capsys):
    errors.warn.cache_clear()
    methods = {"rocm-none": {"inference_steps": 2}, "rocm-kl": {"beta": 0.05}}
    assert set(drawn_steps(make_config(methods=methods)).values()) == {4}
    said = capsys.readouterr().err
    assert "warning: hpsv2/rocm-none/seed-0 and 1 more trains with 2 inference steps" in said
    assert "generation.inference_steps" in said
    make_config(methods=methods, generation={"inference_steps": [None, 2]})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file", ["lora.safetensors", "snapshots/step-8.safetensors"])
def test_a_lora_of_another_base_to_start_from_is_named(file, capsys, tmp_path):
    """As its manifest says; a copy of the same base and a LoRA from elsewhere are let pass."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/unet.safetensors").write_text("weights")
    model, lora = str(tmp_path / "base"), str(tmp_path / file)
    policy = {"model": model, "steps": 4, "guidance_scale": 3.0}
    changes = {
        "policies": {"consistency": policy},
        "training": {"learning_rate": 1e-3, "iterations": 10, "init_lora": lora},
    }
    errors.warn.cache_clear()
    make_config(**changes)
    for digest in (folder_digest(model), "another"):
        manifest = {"settings": {"model": "moved"}, "weights": {"moved": digest}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert capsys.readouterr().err == ""
        make_config(**changes)
    assert capsys.readouterr().err == (
        f"warning: init_lora: {lora} was trained on moved, not on {model}\n"
    )
