"""YAML and JSON that people write: what may not be what was meant is refused in one sentence."""

import json

import pytest
import yaml

from rocm_core.errors import UserError
from rocm_core.grid import given_config, load_config, parse_config
from rocm_core.plugins import ROOT
from rocm_core.reading import parse_json, parse_yaml, read_yaml
from rocm_core.weights import table

DEMO = ROOT / "config/demo.yaml"
AMBIGUOUS = {
    "a: {seeds: [1, 010]}": "a.seeds[1] must not be 010, which YAML reads as 8: write",
    "steps: -0b11": "steps must not be -0b11, which YAML reads as -3: write",
    "steps: 0x1F": "steps must not be 0x1F, which YAML reads as 31: write",
    "steps: 1_000": "steps must not be 1_000, which YAML reads as 1000: write",
    "steps: 12:30:45": "steps must not be 12:30:45, which YAML reads as 45045: write",
    "steps: !!int '010'": "steps must not be 010, which YAML reads as",
    "scale: 1_0.5": "scale must not be 1_0.5, which YAML reads as 10.5: write",
    "scale: 1:30.5": "scale must not be 1:30.5, which YAML reads as 90.5: write",
    "name: no": "name must not be no, which YAML reads as false: write false, or put the word in q",
    "ties: Yes": "ties must not be Yes, which YAML reads as true: write true, or put the word in q",
    "methods: {on: {}}": "methods.on must not be on, which YAML reads as true",
    "source: [2024-01-01]": "source[0] must not be 2024-01-01, which YAML reads as a date: put it",
    "2001-12-14t21:59:43.10-05:00: x": "which YAML reads as a date: put it in quotes",
    "a: 1\n'a': 2": "line 2: the key 'a' is given twice: keep one",
    "a: {b: 1, c: {d: 1, d: 2}}": "the key 'd' is given twice: keep one",
    "a: &x [*x]": "a[0][0] is nested too deeply",
    "a: !!int ''": "a must not be , which YAML reads as",
    "a: !!python/object/apply:os.getcwd []": "line 1: not valid YAML: could not determine",
}


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_what_yaml_may_read_otherwise_is_refused_by_its_key(text):
    with pytest.raises(UserError) as error:
        parse_yaml(text)
    assert AMBIGUOUS[text] in str(error.value)


def test_what_can_be_meant_in_one_way_only_is_read():
    text = """
text: ["010", "no", '1_000', "2024-01-01", 1e-4, 0o10, 08, a:b]
numbers: [10, -3, +2, 0, 1.0e-4, .5, 1., -0.3, 010.5]
truth: [true, False, null, ~]
base: &base {a: 1, b: 2}
merged: {<<: *base, b: 3}
again: [*base, *base]
    """
    values = parse_yaml(text)
    assert values == yaml.safe_load(text)
    assert all(isinstance(value, str) for value in values["text"])
    assert values["numbers"][-1] == 10.5 and values["merged"] == {"a": 1, "b": 3}
    assert parse_yaml("") is None and parse_yaml("a: |\n  010\n") == {"a": "010\n"}


@pytest.mark.parametrize(
    ("innermost", "level"),
    [("[lol]", "[{0}]"), ("{x: 1}", "{{{1}}}"), ("[]", "[{0}]"), ("{x: 1}", "{{<<: [{0}]}}")],
)
def test_aliases_that_explode_are_refused_at_once(innermost, level, tmp_path):
    lines = [f"a0: &a0 {innermost}"]
    for n in range(1, 15):
        items = [f"*a{n - 1}"] * 9
        named = ", ".join(f"k{i}: {item}" for i, item in enumerate(items))
        lines.append(f"a{n}: &a{n} " + level.format(", ".join(items), named))
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bomb.yaml: a\d.* its aliases \(\*\) stand for more than"):
        read_yaml(tmp_path / "bomb.yaml")


def test_aliases_of_a_long_text_count_by_its_length():
    text = f"a: &a {'lol' * 100_000}\nb: [{'*a, ' * 30}*a]"
    assert len(parse_yaml(text)["b"]) == 31
    with pytest.raises(UserError, match=r"b\[\d+\]: its aliases \(\*\) stand for more than"):
        parse_yaml(text.replace("[", "[*a, *a, *a, "))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "x.json: not valid JSON: the key 'a' is given twice: keep one"),
        ('[{"b": {"c": 1, "c": 1}}]', "the key 'c' is given twice"),
        ('{"a": nan}', "x.json: not valid JSON"),
        ("[" * 100_000, "x.json: not valid JSON"),
        ("1" * 5000, "x.json: not valid JSON"),
        ("", "x.json: not valid JSON"),
    ],
)
def test_json_is_read_as_strictly(text, said):
    with pytest.raises(UserError) as error:
        parse_json(text, "x.json")
    assert said in str(error.value)
    assert parse_json('{"a": [1, null]}', "x.json") == {"a": [1, None]}


def test_the_projects_own_files_are_read():
    assert len(table()) > 20
    for path in [*(ROOT / "config").glob("*.yaml"), *ROOT.glob("*/config.yaml")]:
        assert read_yaml(path)


# What `snakemake --config` is given, and the value that the configuration then has.
GIVEN = {
    "seeds=[3, 4]": lambda config: config.seeds == (3, 4),
    "snapshots={prompts: 2}": lambda config: config.snapshots.prompts == 2,
    "training={iterations: 7, learning_rate: 1.0e-4}": lambda config: (
        (config.training["iterations"], config.training["snapshot_every"]) == (7, 8)
        and config.training["learning_rate"] == 1e-4
    ),
    "partial=true": lambda config: config.partial is True,
    "partial=True": lambda config: config.partial is True,
    "metrics=": lambda config: config.metrics == tuple(config.scorers),
    "name='007'": lambda config: config.name == "007",
    "prompts={validation: {source: ['010', no-one, 'yes']}}": lambda config: (
        config.prompts["validation"].source == ("010", "no-one", "yes")
    ),
    "sweeps=[]": lambda config: config.sweeps == (),
}


@pytest.mark.parametrize("argument", GIVEN)
def test_the_command_line_is_read_as_the_file_is(argument):
    values = read_yaml(DEMO)
    values["prompts"]["validation"] = {"source": ["a", "b"]}
    assert GIVEN[argument](given_config(values, [str(DEMO)], [argument]))


def test_a_configuration_in_json_has_the_texts_that_it_says(tmp_path):
    texts, path = ["a family: 👩\u200d👩", "𝒳", "猫"], tmp_path / "c.yaml"
    values = read_yaml(DEMO)
    values["prompts"]["validation"] = {"source": texts}
    path.write_text(json.dumps(values))
    for config in (load_config(path), given_config(read_yaml(path), [str(path)], [])):
        assert config.prompts["validation"].source == tuple(texts)
    path.write_text(json.dumps(values).replace(r"\udc69", ""))
    with pytest.raises(UserError, match=r"source\[0\] must be one line of text"):
        load_config(path)


REFUSED = {
    "seeds=[0,": "--config: seeds: not valid YAML",
    "seeds=[010]": "--config: seeds[0] must not be 010, which YAML reads as 8",
    "seeds=010": "--config: seeds must not be 010",
    "partial=yes": "--config: partial must not be yes, which YAML reads as true: write true",
    "training={iterations: many}": "--config: training.iterations must be a whole number",
    "training={learning_rate: 1e-4}": "--config: training.learning_rate must be .* write 1.0e-4",
    "snapshots={prompts: 2, prompts: 3}": "--config: line 1: the key 'prompts' is given twice",
    "rewards=[hpsv3]": "--config: rewards: 'hpsv3' is not among .*; did you mean hpsv2",
    "sead=1": "--config: sead is not a key of the configuration",
    f"name={'a' * 40_000}": "--config is given more than 30,000 characters.*--configfile",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_the_command_line_is_blamed_by_name(argument):
    with pytest.raises(UserError, match="^" + REFUSED[argument].replace("[", r"\[")) as said:
        given_config(read_yaml(DEMO), [str(DEMO)], [argument])
    assert "demo.yaml" not in str(said.value)


def test_the_file_is_blamed_for_what_it_says(tmp_path):
    path = tmp_path / "c.yaml"
    demo = DEMO.read_text()
    path.write_text(demo.replace("iterations: 64", "iterations: -1"))
    with pytest.raises(UserError, match=f"^{path}: training.iterations must be a whole number"):
        given_config(read_yaml(path), [str(path)], ["seeds=[1]"])
    path.write_text(demo.replace("iterations: 64", "iterations: 0100"))
    with pytest.raises(UserError, match=f"^{path}: training.iterations must not be 0100"):
        given_config(yaml.safe_load(path.read_text()), [str(path)], [])
    path.write_text(demo)
    assert given_config(read_yaml(path), [str(path)], []) == load_config(path)
    assert parse_config(read_yaml(path)).seeds == (0,)
