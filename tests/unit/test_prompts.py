"""Prompt sets: read strictly, sampled by seed, and never validated on what was trained on."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from rocm_core.errors import UserError
from rocm_core.prompts import (
    Prompt,
    check_sources,
    make_prompts,
    read_prompts,
    write_prompts,
)
from rocm_core.settings import PromptSettings

TEXTS = ["a red circle", "ein Käse 🧀", "  two\tspaces  here ", "日本語", "a red CIRCLE"]


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert message.splitlines() == [message]
    return message


def test_prompts_survive_writing_and_reading(tmp_path):
    prompts = [Prompt(str(i), text.strip(), "test") for i, text in enumerate(["é 🧀", "a \\ b"])]
    write_prompts(tmp_path / "p.jsonl", prompts)
    assert read_prompts(tmp_path / "p.jsonl") == prompts


BROKEN = {
    "not JSON": ('{"id": "2", "text": "a cat"', ":2: not a JSON object"),
    "not an object": ('["a cat"]', ":2: not a JSON object"),
    "blank line": ("", ":2: not a JSON object"),
    "no id": ('{"text": "a cat"}', ":2: the id must be a text of letters"),
    "number as id": ('{"id": 2, "text": "a cat"}', ":2: the id must be a text of letters"),
    "id leaves the folder": ('{"id": "../x", "text": "a cat"}', ":2: the id must be a text"),
    "id twice": ('{"id": "1", "text": "a cat"}', ":2: the id '1' is given twice"),
    "no text": ('{"id": "2"}', ":2: a prompt must be a text, not None"),
    "empty text": ('{"id": "2", "text": ""}', ":2: the prompt is empty"),
    "only spaces": ('{"id": "2", "text": " \\n\\t "}', ":2: the prompt is empty"),
    "half a character": ('{"id": "2", "text": "\\ud83e"}', ":2: the prompt holds half a surrogate"),
    "endless": ("[" * 100_000, ":2: not a JSON object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_refused_by_its_number(case, tmp_path):
    line, expected = BROKEN[case]
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "1", "text": "a dog"}\n' + line + '\n{"id": "3", "text": "a fox"}\n')
    assert expected in refusal(read_prompts, path)


def test_files_that_are_no_prompt_lists_are_refused(tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b'{"id": "1", "text": "a"}\n\xff\xfe')
    assert "binary.jsonl:2: not UTF-8" in refusal(read_prompts, tmp_path / "binary.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert "empty.jsonl holds no prompts" in refusal(read_prompts, tmp_path / "empty.jsonl")
    assert "does not exist" in refusal(read_prompts, tmp_path / "none.jsonl")
    assert "cannot be read: Is a directory" in refusal(read_prompts, tmp_path)
    for name, text, said in [
        ("a.json", '{"a": 1}', "must be a list of prompts"),
        ("b.json", '["a", 7]', "entry 2: a prompt must be a text, not 7"),
        ("c.json", '["a"', "not valid JSON"),
        ("d.txt", "a\n\nb\n", "d.txt:2: the prompt is empty"),
        ("e.txt", "", "holds no prompts"),
        ("f.docx", "", "must end in .txt or .json or .jsonl or .parquet"),
        ("g.parquet", "", "g.parquet is no Parquet file with a column caption"),
        ("h.json", '[{"text": "a"}]', "entry 1: a prompt must be a text, not None"),
    ]:
        (tmp_path / name).write_text(text)
        assert said in refusal(make_prompts, PromptSettings(str(tmp_path / name)))


@pytest.mark.parametrize("suffix", [".txt", ".json", "captions.json", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_prompts_without_duplicates(suffix, tmp_path):
    path = tmp_path / f"list{suffix}"
    lines = {
        ".txt": "\n".join(TEXTS) + "\n\n",
        ".json": json.dumps(TEXTS),
        "captions.json": json.dumps([{"caption": text, "trainset_idx": 1} for text in TEXTS]),
        ".jsonl": "".join(
            json.dumps({"id": f"{i:05d}", "text": t}) + "\n" for i, t in enumerate(TEXTS)
        ),
    }
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"caption": TEXTS, "url": TEXTS}), path)
    else:
        path.write_text("\ufeff" + lines[suffix])
    prompts = make_prompts(PromptSettings(str(path)))
    texts = ["a red circle", "ein Käse 🧀", "two spaces here", "日本語"]
    assert prompts == [Prompt(f"{i:05d}", text, path.name) for i, text in enumerate(texts)]


def test_a_sample_depends_on_the_seed_alone(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(100)))
    first, again, other = (make_prompts(PromptSettings(str(path), 10, seed)) for seed in (1, 1, 2))
    assert first == again != other and len({prompt.id for prompt in first}) == 10
    assert [p.text for p in first] == [f"prompt {int(p.id)}" for p in first]
    assert "has 100 different prompts, not 101" in refusal(
        make_prompts, PromptSettings(str(path), 101)
    )


def test_a_file_that_shares_prompts_with_the_training_set_is_refused(tmp_path):
    path = tmp_path / "validation.txt"
    path.write_text("a cat\nA  red circle\n")
    train = [Prompt("1", "a red Circle", "train")]
    message = refusal(make_prompts, PromptSettings(str(path)), train)
    assert "validation.txt shares 1 prompts" in message and "'A red circle'" in message
    assert len(make_prompts(PromptSettings(str(path)), [Prompt("1", "a dog", "train")])) == 2


def test_the_shapes_world_gives_disjoint_sets():
    train = make_prompts(PromptSettings("shapes", 64, 1))
    validation = make_prompts(PromptSettings("shapes", 64, 1), train)
    held_out = make_prompts(PromptSettings("shapes", 64, 2, held_out=True), train)
    sets = [{prompt.text for prompt in prompts} for prompts in (train, validation, held_out)]
    assert all(len(texts) == 64 for texts in sets) and len(set.union(*sets)) == 3 * 64
    assert train[7].id == "00007" and train[7].source == "shapes"
    assert train == make_prompts(PromptSettings("shapes", 64, 1))
    assert "needs a count" in refusal(make_prompts, PromptSettings("shapes"))


def test_a_set_can_be_restricted_by_words(tmp_path):
    plain = PromptSettings("shapes", 64, 1, without=("ring", "cross"))
    rings = PromptSettings("shapes", 64, 1, held_out=True, containing=("ring", "cross"))
    words = [{w for p in make_prompts(s) for w in p.text.split()} for s in (plain, rings)]
    assert not words[0] & {"ring", "cross"} and words[1] > {"ring", "cross"}
    assert all({"ring", "cross"} & set(p.text.split()) for p in make_prompts(rings))
    path = tmp_path / "list.txt"
    path.write_text("A Ring, of gold\na string\na cross\n")
    texts = [p.text for p in make_prompts(PromptSettings(str(path), containing=("ring", "cross")))]
    assert texts == ["A Ring, of gold", "a cross"]
    nothing = PromptSettings(str(path), containing=("gold",), without=("ring",))
    assert "has no prompt with the words" in refusal(make_prompts, nothing)
    few = PromptSettings(str(path), 2, without=("ring",), containing=("cross",))
    assert "has 1 different prompts, not 2" in refusal(make_prompts, few)


def test_a_set_may_overlap_where_that_is_its_purpose():
    train = make_prompts(PromptSettings("shapes", 32, 1))
    assert make_prompts(PromptSettings("shapes", 32, 1, overlap=True), train) == train


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"without": ("rings",)}, "prompts.test.without: no caption .* 'rings'; did you mean ring"),
        ({"containing": ("a",)}, "prompts.test.containing: no caption of the world shapes"),
        ({"containing": ("ring",), "without": ("ring",)}, "wants the word ring and does without"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(settings, said):
    sets = {"train": PromptSettings("shapes", 4), "test": PromptSettings("shapes", 4, **settings)}
    with pytest.raises(UserError, match=said):
        check_sources(sets, ("shapes",), ["train"])


def test_only_sets_to_judge_on_must_keep_clear_of_those_trained_on(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"a cat\nonly in {name}\n")
    first, second = (PromptSettings(str(tmp_path / f"{name}.txt")) for name in ("a", "b"))
    check_sources({"x": second, "train": first}, (), ["train", "x"])
    check_sources({"x": PromptSettings(second.source, overlap=True), "train": first}, (), ["train"])
    with pytest.raises(UserError, match="b.txt shares 1 prompts .* or allow them by overlap: true"):
        check_sources({"x": second, "train": first}, (), ["train"])
