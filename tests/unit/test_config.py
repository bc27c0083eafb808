"""Configurations: what is valid is complete and typed, what is not is refused in one sentence."""

import copy
import json
import math
import shlex
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from jsonschema import Draft202012Validator

from rocm_core.algorithms import load_settings
from rocm_core.commands import configuration
from rocm_core.configuration import (
    document,
    load_schema,
    schema_text,
    settings_class,
    type_config,
    validate,
)
from rocm_core.errors import UserError
from rocm_core.grid import load_config, make_grid, parse_config, snapshot_prompts
from rocm_core.plugins import ROOT, names
from rocm_core.reading import read_yaml

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
SMALL = """\
name: small
policies:
  consistency: {model: base, steps: 4, guidance_scale: 3.0}
scorers:
  hpsv2: scorers/hpsv2
  aesthetic: scorers/aesthetic
  gold: null
prompts:
  train: {source: shapes, count: 32, seed: 1}
  validation: {source: shapes, count: 8, seed: 2, held_out: true}
rewards: [hpsv2, aesthetic]
methods:
  rocm-none:
  rocm-kl: {beta: 0.05}
  rocm-js: {beta: {target: 0.01, start: 1.0}, reduction: mean}
seeds: [0, 1]
training:
  learning_rate: 1.0e-3
  iterations: 10
  snapshot_every: 5
cells:
  hpsv2/rocm-kl: {beta: 0.1}
sweeps:
  - {methods: [rocm-kl], setting: beta, values: [0.01, 0.2]}
"""


def refuse(text, tmp_path):
    """The sentence with which a configuration's text is refused."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(path)
    message = str(error.value)
    assert message.startswith(str(path)) and message.splitlines() == [message]
    return message.removeprefix(str(path)).lstrip(": ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_are_valid(path):
    config = load_config(path)
    assert config.name == path.stem and make_grid(config)


def test_every_key_has_a_value_of_its_type():
    config = parse_config(yaml.safe_load(SMALL))
    assert config.training["adam_betas"] == [0.9, 0.999]  # a default of the schema
    assert config.metrics == ("hpsv2", "aesthetic", "gold")
    assert config.snapshots.prompts == 64
    assert snapshot_prompts(config) == 8  # as there are only eight
    assert config.resources.threads == 1 and config.generation.seed == 1000
    assert config.prompts["validation"].held_out and not config.prompts["train"].held_out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_written_out_in_full_is_the_same(path):
    config = load_config(path)
    carried = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    again = type_config(carried)
    assert again == config and hash(again) == hash(config) and again.to_dict() == carried
    assert make_grid(again) == make_grid(config)
    # As before there were any.
    absent = {name for name in ("ensembles", "gradients", "base_rewards") if name not in carried}
    assert not any(yaml.safe_load(path.read_text()).get(name) for name in absent)
    assert set(carried) == set(load_schema()["properties"]) - absent
    expected = set(TRAINING) - ({"beta"} if "beta" not in config.training else set())
    assert set(carried["training"]) == expected
    assert type_config(carried | {"seeds": [7]}) != config


def test_the_order_of_methods_counts():
    values = yaml.safe_load(SMALL)
    turned = values | {"methods": dict(reversed(values["methods"].items()))}
    assert parse_config(turned) != parse_config(values)


BROKEN = {
    "unknown key": (
        "learning_rate: 1.0e-3",
        "lr: 1.0e-3",
        "training.lr did you mean learning_rate",
    ),
    "typo": ("iterations:", "iteratons:", "training.iteratons did you mean iterations"),
    "number as text": ("1.0e-3", "1e-4", "training.learning_rate '1e-4' write 1.0e-4"),
    "number in quotes": ("1.0e-3", "'0.001'", "training.learning_rate write 0.001 without quotes"),
    "negative": ("iterations: 10", "iterations: -10", "training.iterations from 1 to -10"),
    "fraction": ("iterations: 10", "iterations: 2.5", "training.iterations a whole number not 2.5"),
    "truth as number": ("steps: 4", "steps: yes", "policies.consistency.steps not true"),
    "not finite": ("beta: 0.05", "beta: .nan", "methods.rocm-kl.beta finite number nan"),
    "a cell that is no cell": ("hpsv2/rocm-kl: {beta: 0.1}", "hpsv2: null", "cells.hpsv2 null"),
    "name of a folder": ("  validation:", "  snapshots: {source: a.txt}\n  validation:", "rename"),
    "steps": ("seeds: [0, 1]", "generation: {inference_steps: [1, 1]}", "inference_steps distinct"),
    "choice": ("reduction: mean", "reduction: average", "methods.rocm-js.reduction sum or mean"),
    "missing key": ("name: small\n", "", "name is missing"),
    "missing beta": ("rocm-kl: {beta: 0.05}", "rocm-kl:", "methods.rocm-kl.beta is missing"),
    "beta of nothing": ("rocm-none:", "rocm-none: {beta: 1}", "methods.rocm-none remove"),
    "unknown reward": ("[hpsv2, aes", "[hpsv, aes", "rewards 'hpsv' did you mean hpsv2"),
    "judge as reward": ("[hpsv2, aesthetic]", "[gold]", "rewards 'gold' judge"),
    "unknown scorer": (
        "  aesthetic: s",
        "  esthetic: s",
        "scorers.esthetic did you mean aesthetic",
    ),
    "unknown divergence": ("rocm-js:", "rocm-jss:", "methods.rocm-jss did you mean js"),
    "unknown method": ("rocm-js:", "rokm-js:", "methods.rokm-js did you mean rocm-js"),
    "name of a method": ("rocm-js:", "ROCM JS:", "methods has the key 'ROCM JS' lower-case"),
    "unknown policy": ("  consistency:", "  konsistency:", "policies.konsistency consistency"),
    "option of another chain": ("steps: 4", "steps: 4, gamma: 0", "consistency.gamma lcm remove"),
    "option beyond": ("steps: 4", "steps: 4, chain: tcd, gamma: 2", "policies.consistency.gamma 1"),
    "no density": (
        "steps: 4",
        "steps: 4, chain: tcd, gamma: 0",
        "rocm-kl divergence chain tcd none",
    ),
    "unknown cell": ("hpsv2/rocm-kl:", "hpsv2/rocm-kk:", "cells.hpsv2/rocm-kk hpsv2/rocm-kl"),
    "unknown setting": ("setting: beta", "setting: betta", "sweeps[0].setting did you mean beta"),
    "swept value": ("[0.01, 0.2]", "[0.01, 2e-1]", "sweeps[0].values '2e-1' write 2.0e-1"),
    "twice": ("seeds: [0, 1]", "seeds: [0, 0]", "seeds distinct [0, 0]"),
    "key twice": ("seeds: [0, 1]", "seeds: [0]\nseeds: [1]", "line 17 'seeds' given twice"),
    "not YAML": ("seeds: [0, 1]", "seeds: [0, 1", "line 17 not valid YAML"),
    "tab": ("  iterations", "\titerations", "line 19 not valid YAML"),
    "date": (
        "source: shapes, count: 32",
        "source: 2024-01-01, count: 32",
        "prompts.train.source quotes",
    ),
    "no count": ("count: 32, ", "", "prompts.train.count is missing"),
    "source": (
        "source: shapes, count: 32",
        "source: a.docx, count: 32",
        "prompts.train.source .txt",
    ),
    "number as a name": ("name: small", "name: 2024", "name not 2024: put it in quotes"),
    "number as a path": ("{model: base,", "{model: 1.5,", "policies.consistency.model 1.5: quotes"),
    "path": ("name: small", "name: ../small", "name a name of lower-case letters"),
    "judge": ("name: small", "name: small\npublished: [clipscore]", "published 'clipscore'"),
    "judge of no metric": (
        "name: small",
        "name: small\npublished: [imagereward]",
        "published 'imagereward' is not among the metrics",
    ),
    "warm-up": ("snapshot_every: 5", "warmup_steps: 11", "warmup_steps at most 10 not 11"),
    "other world": ("name: small", "name: small\nworld: paper", "scorers.gold another world"),
    "empty list": ("[hpsv2, aesthetic]", "[]", "rewards at least one"),
    "endless": ("seeds: [0, 1]", "seeds: &a [*a]", "seeds nested too deeply"),
    "a list": (SMALL, "- name", "must be a mapping"),
    "nothing": (SMALL, "", "must be a mapping null"),
}


METHODS = {
    "ppo: {}": "methods.ppo 'ppo' is not a method",
    "rlcm-kl: {beta: 1}": "methods.rlcm-kl not a method",
    "ddpo: {}": "methods.ddpo needs policies.diffusion",
    "rlcm: {beta: 1}": "methods.rlcm no divergence remove it",
    "rlcm: {value_updates: 1}": "methods.rlcm.value_updates has no effect on ppo",
    "rlcm: {memory: 8}": "methods.rlcm.memory no effect on ppo",
    "rlcm: {updates_per_iteration: 2, accumulation_steps: 3}": "updates_per_iteration divide 3",
    "rlcm: {images_per_prompt: 2, batch_size: 3}": (
        "images_per_prompt must divide batch_size × accumulation_steps, 3"
    ),
    "rlcm: {prompt_buffer: 8}": "prompt_buffer_minimum at most prompt_buffer, 8 is 16",
    "rlcm: {ratio_clip: -1}": "methods.rlcm.ratio_clip from 0",
    "rocm-kl: {beta: 1, inner_epochs: 2}": "methods.rocm-kl.inner_epochs has no effect on direct",
    "ppo-consistency-jss: {beta: 1}": "methods.ppo-consistency-jss 'jss' did you mean js",
    "dpok-consistency-kl: {}": "methods.dpok-consistency-kl.beta is missing",
    "d3po-consistency-kl: {beta: 1}": "images_per_prompt must be even d3po is 1",
    "d3po-consistency-kl: {beta: 1, images_per_prompt: 3, batch_size: 3}": "must be even is 3",
    "d3po-consistency-kl: {beta: {target: 0.1, start: 1.0}, images_per_prompt: 2, batch_size: 2}": (
        "beta d3po target"
    ),
    "rocm-kl: {beta: auto}": "methods.rocm-kl.beta number target start auto",
    "rocm-kl: {beta: {target: 0.1}}": "methods.rocm-kl.beta target start",
    "d3po-consistency-kl: {beta: 1, images_per_prompt: 2, batch_size: 1, accumulation_steps: 2}": (
        "batch_size must be even d3po is 1"
    ),
    "d3po-consistency-js: {beta: 1}": "methods.d3po-consistency-js d3po cannot divergence js",
    "d3po-consistency: {}": "methods.d3po-consistency d3po cannot divergence none",
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_cannot_be_is_refused_in_a_sentence_that_names_the_key(method, tmp_path):
    message = refuse(
        SMALL.replace("  rocm-kl: {beta: 0.05}", f"  {method}", 1).split("cells:")[0], tmp_path
    )
    assert [word for word in METHODS[method].split() if word not in message] == [], message


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_is_refused_in_a_sentence_that_names_the_key(case, tmp_path):
    old, new, expected = BROKEN[case]
    assert old in SMALL
    message = refuse(SMALL.replace(old, new, 1), tmp_path)
    assert [word for word in expected.split() if word not in message] == [], message


def test_a_pipeline_that_no_denoiser_loads_is_refused_before_any_job(tmp_path):
    values = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    values["policies"]["consistency"]["model"] = str(tmp_path)
    parse_config(values)  # not there yet
    (tmp_path / "model_index.json").write_text('{"_class_name": "AuraFlowPipeline"}')
    said = r"^policies\.consistency\.model: .* is a AuraFlowPipeline, which no denoiser loads; they"
    with pytest.raises(UserError, match=said):
        parse_config(values)


@pytest.mark.parametrize("policy", ["sd3", "flux"])
def test_a_flow_as_published_has_no_density_and_the_chain_is_named_that_has(policy):
    values = yaml.safe_load((ROOT / "config/few-step.yaml").read_text(encoding="utf-8"))
    assert values["policies"][policy].pop("chain") == "flow"
    said = f"direct-{policy}-kl: the divergence kl is over the steps that draw noise, and the chain"
    with pytest.raises(UserError, match=f"{said} euler .* name another chain there, such as flow"):
        make_grid(parse_config(values))


def test_the_same_divergence_by_two_names_must_agree(tmp_path):
    message = refuse(
        SMALL.replace("  rocm-js:", "  rocm-reverse-kl: {beta: 9}\n  rocm-js:"), tmp_path
    )
    assert "methods.rocm-reverse-kl" in message and "methods.rocm-kl" in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing.yaml cannot be read: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_broken_prompt_files_are_refused_before_any_job(tmp_path):
    for name, text in {"train.txt": "a red circle\na cat\n", "test.txt": "A  Red circle\n"}.items():
        (tmp_path / name).write_text(text)
    values = yaml.safe_load(SMALL)
    values["prompts"] = {"train": {"source": str(tmp_path / "train.txt")}}
    values["prompts"]["validation"] = {"source": str(tmp_path / "test.txt")}
    with pytest.raises(UserError, match="test.txt shares 1 prompts with the training prompts"):
        parse_config(values)
    (tmp_path / "train.txt").write_bytes(b"a blue circle\n\xff\na cat\n")
    with pytest.raises(UserError, match=r"train\.txt:2: not UTF-8"):
        parse_config(values)


def test_the_command_says_one_sentence_and_exits_2(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SMALL.replace("1.0e-3", "1e-3"))
    command = [sys.executable, "-m", "rocm_core.commands.configuration", "--configfile", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1 and "write 1.0e-3" in ended.stderr


def test_a_grid_is_planned_without_anything_heavy():
    code = """import sys
from rocm_core.grid import load_config, make_grid
from rocm_core.commands import cells, configuration, verify, weights
make_grid(load_config("config/shapes.yaml"))
print([name for name in ("torch", "numpy", "pandas", "PIL") if name in sys.modules])"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stderr


def test_every_key_is_documented_and_its_default_is_valid():
    whole = load_schema()
    Draft202012Validator.check_schema(whole)

    def visit(part, path):
        if path:
            assert part["description"].endswith("."), path
        if "properties" in part:
            others = part["additionalProperties"]
            assert others is False or "source" in others["properties"], path
            needed = set(part.get("required", ()))
            for key, below in part["properties"].items():
                has_default = "default" in below
                assert has_default != (key in needed) or key == "beta", (*path, key)
                if has_default and below["default"] != {}:
                    validate(below["default"], below, (*path, key))
                visit(below, (*path, key))

    visit(whole, ())


def test_the_settings_of_every_algorithm_are_the_keys_of_training():
    training = load_schema()["properties"]["training"]["properties"]
    for algorithm in names("algorithms"):
        fields = settings_class(algorithm, "key").model_fields
        for key in fields.keys() & training.keys():
            shown, own = training[key].get("default"), fields[key].get_default()
            own = list(own) if isinstance(own, tuple) else own
            assert fields[key].is_required() or shown in (own, None), (algorithm, key)
            assert training[key]["description"] == training[key]["description"].strip()
    assert training["ratio_clip"]["default"] is None  # as the algorithms' own differ
    fields = {name: settings_class(name, "key").model_fields for name in names("algorithms")}
    ours = {name: f["ratio_clip"].default for name, f in fields.items() if "ratio_clip" in f}
    plain = dict.fromkeys(("dpok", "grpo", "hybrid", "ppo"), 1e-4)
    assert ours == {"d3po": 0.1} | plain


def test_an_algorithm_that_gives_a_key_another_meaning_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other_algorithms").mkdir()
    (tmp_path / "other_algorithms" / "odd.py").write_text(
        "from rocm_core.configuration import TrainingSettings\n"
        "class Settings(TrainingSettings):\n"
        "    horizon: int = 3\n"
    )
    (tmp_path / "other_algorithms" / "none.py").write_text("class Settings:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, said in [("odd", "odd means something else by horizon"), ("none", "none must be a")]:
        with pytest.raises(UserError, match=f"^methods: .*other_algorithms.{said}"):
            load_schema([f"other_algorithms.{name}-consistency"])


def test_the_schema_and_the_page_are_those_of_the_models():
    for path, text in [
        ("workflow/schemas/config.schema.json", schema_text()),
        ("docs/configuration.md", document()),
    ]:
        assert (ROOT / path).read_text() == text, (
            f"write {path} anew, see commands/configuration.py"
        )


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, -1, 0, 2.0, 1e308, math.inf, "1e-4", "1e5", "0.1", "auto"]),
    st.sampled_from(
        ["shapes", "hpsv2", "gold", "rocm-kl", "rocm-js", "a.txt", "/", "\x00.txt", "\ud800"]
    ),
    st.sampled_from(["beta", "reduction", "lora_targets", "x" * 5000, "line\nbreak", "\u2028"]),
    st.sampled_from(
        [[], {}, [[]], {"": {}}, {1: 2}, {None: None}, [None], {"beta": 1}, {"a": {"b": []}}]
    ),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.floats(), max_size=2),
    st.dates(),
    st.binary(max_size=3),
).map(copy.deepcopy)


def places(value):
    """Every (container, key) of a configuration."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


@st.composite
def mutants(draw):
    """A valid configuration after one to three random edits."""
    name = draw(st.sampled_from(["small", "demo", "paper"]))
    values = copy.deepcopy(VALID[name])
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(values)) or [(values, "name")]))
        edit = draw(st.sampled_from(["replace", "replace", "delete", "rename", "add", "borrow"]))
        if edit == "replace":
            container[key] = draw(NASTY)
        elif edit == "delete":
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
        elif edit == "rename" and isinstance(container, dict):
            container[draw(st.text(max_size=12))] = container.pop(key, None)
        elif edit == "add" and isinstance(container, dict):
            container[draw(st.sampled_from([*TRAINING, "rocm-fisher", "rocm-reverse-kl"]))] = draw(
                NASTY
            )
        elif edit == "add":
            container.append(draw(NASTY))
        else:
            other, other_key = draw(st.sampled_from(list(places(values))))
            container[key] = copy.deepcopy(other[other_key])
    return values


VALID = {"small": yaml.safe_load(SMALL)} | {path.stem: read_yaml(path) for path in CONFIGS}
TRAINING = sorted(load_schema()["properties"]["training"]["properties"])


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutants())
def test_any_mutant_of_a_valid_configuration_is_valid_or_refused_in_one_sentence(values):
    try:
        cells = make_grid(parse_config(values))
    except UserError as error:
        assert str(error) and str(error).splitlines() == [str(error)]
        return
    assert len({cell.name for cell in cells}) == len(cells) > 0
    for cell in cells[:3]:
        carried = json.loads(json.dumps(cell.settings.to_dict(), allow_nan=False))
        assert load_settings(carried) == cell.settings


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, len(SMALL)),
    st.integers(0, 12),
    st.text("{}[]:,-&*!|>'\"%@#?\t\n 0e.a\x00é", max_size=6),
)
def test_any_damage_to_the_file_is_valid_or_refused_in_one_sentence(
    tmp_path_factory, start, length, text
):
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(SMALL[:start] + text + SMALL[start + length :])
    try:
        load_config(path)
    except UserError as error:
        assert str(error).splitlines() == [str(error)]


NAMED = {
    "plain": "name: tiny\n",
    "double quotes": 'name: "tiny"\n',
    "single quotes": "name:   'tiny'  # of the smallest\n",
    "further down": "# name: wrong\nseeds: [3]\nname: tiny\n",
    "JSON": json.dumps(yaml.safe_load(SMALL) | {"name": "tiny"}),
}


@pytest.mark.parametrize("style", NAMED)
def test_make_says_where_the_results_are_however_the_name_is_written(
    tmp_path, monkeypatch, capsys, style
):
    path, written = tmp_path / "it's mine.yaml", yaml.safe_load(NAMED[style])
    others = {k: v for k, v in yaml.safe_load(SMALL).items() if k not in written}
    path.write_text(NAMED[style] + (yaml.safe_dump(others) if others else ""))
    asked = ["make", "--dry-run", "demo", f"CONFIG={path}"]
    recipe = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in recipe.splitlines() if "--results" in line]
    assert "results/" not in recipe
    monkeypatch.setattr(sys, "argv", shlex.split(command)[2:])
    configuration.main()
    said = capsys.readouterr().out.split()
    assert said[1::2] == [f"results/tiny/{name}" for name in ("report.html", "tables/", "figures/")]


def test_a_copy_with_other_values_is_not_taken_for_its_original():
    config = parse_config(yaml.safe_load(SMALL))
    assert config.model_copy() == config  # which computes the text that tells them apart
    wider = config.model_copy(update={"seeds": (0, 1, 2)})
    assert wider != config and len(make_grid(wider)) > len(make_grid(config))
