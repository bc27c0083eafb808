"""Prompt sets: read strictly, sampled by seed, and never validated on what was trained on."""

import json
import math
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from rocm_core.configuration import PromptSettings, validate
from rocm_core.errors import UserError
from rocm_core.prompts import (
    Prompt,
    check_sources,
    make_prompts,
    prompt_count,
    read_prompts,
    write_prompts,
)
from rocm_core.weights import table

TEXTS = ["a red circle", 'ein "Käse", 🧀', "  two\xa0spaces\x07 here ", "日本語", "a red circle"]


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
    "no id": ('{"text": "a cat"}', ":2: the id must be text made of letters"),
    "number as id": ('{"id": 2, "text": "a cat"}', ":2: the id must be text made of letters"),
    "id leaves the folder": ('{"id": "../x", "text": "a cat"}', ":2: the id must be text"),
    "id twice": ('{"id": "1", "text": "a cat"}', ":2: the id '1' is given twice"),
    "no text": ('{"id": "2"}', ":2: a prompt must be text, not None"),
    "empty text": ('{"id": "2", "text": ""}', ":2: the prompt is empty"),
    "only spaces": ('{"id": "2", "text": " \\n\\t "}', ":2: the prompt is empty"),
    "half a character": (
        '{"id": "2", "text": "\\ud83e"}',
        ":2: the prompt contains half of a surrogate",
    ),
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
        ("a.json", '{"a": 1}', "must be a list of prompts, or several by name"),
        ("b.json", '["a", 7]', "entry 2: a prompt must be text, not 7"),
        ("c.json", '["a"', "not valid JSON"),
        ("c2.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' is given twice"),
        ("d.json", '["a", "\\u200b"]', "d.json: entry 2: the prompt is empty"),
        ("e.txt", "", "holds no prompts"),
        ("f.docx", "", "must end in .txt or .json or .jsonl or .csv or .tsv or .parquet"),
        ("g.parquet", "", "g.parquet is not a readable Parquet file"),
        ("h.json", '[{"a": "b", "c": 1}]', "entry 1 has no column caption or prompt or text, but"),
        ("i.csv", "a,b\n1,2\n", "has no column caption or prompt or text, but a, b: name the one"),
        ("j.csv", "", "has no column caption or prompt or text, but none"),
        ("k.csv", "prompt,b\na cat\n", "k.csv:2: 1 fields, but the header names 2"),
        ("l.csv", 'prompt,b\na,1\n"a cat,2\n', "l.csv:3: not valid CSV: unexpected end of data"),
        ("m.tsv", "prompt\tb\na cat\t1\t2\n", "m.tsv:2: 3 fields, but the header names 2"),
        ("n.tsv", "prompt\n \n", "n.tsv holds no prompts"),
        ("n.csv", "prompt,b\n,1\n", "n.csv:2: the prompt is empty"),
        ("o.csv", "prompt\n", "holds no prompts"),
        ("p.jsonl", '{"a": "b"}\n', "p.jsonl:1 has no column text or prompt or caption, but a"),
        ("q.jsonl", '{"prompt": "a"}\n{"prompt": \n', "q.jsonl:2: not valid JSON"),
        ("r.jsonl", '{"prompt": "a", "id": true}\n', "r.jsonl:1: the id must be text"),
        ("s.jsonl", '{"prompt": "a", "id": "../a"}\n', "s.jsonl:1: the id must be text"),
        ("t.jsonl", '{"prompt": "a", "id": 7}\n{"prompt": "b", "id": "7"}\n', "'7' is given twice"),
        ("u.jsonl", '{"prompt": 7}\n', "u.jsonl:1: a prompt must be text, not 7"),
        ("v.jsonl", '{"prompt": NaN}\n', "v.jsonl:1: a prompt must be text, not nan"),
    ]:
        (tmp_path / name).write_text(text)
        assert said in refusal(make_prompts, PromptSettings(source=str(tmp_path / name)))


def lists(texts: list[str]) -> dict[str, str]:
    """Texts in the layout of each published list, and of a user's own."""
    quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
    styles = {"anime": texts[:2], "photo": texts[2:]}
    fields = {"gen_image_path": "", "metadata": {}, "score": math.nan}
    return {
        ".txt": "\r\n".join(texts) + "\n\n",
        "spo.json": json.dumps([{"caption": text, "trainset_idx": 1} for text in texts]),
        "benchmark.json": json.dumps([{"prompt": text} | fields for text in texts]),
        "style.json": json.dumps(texts),
        "styles.json": json.dumps(styles),
        ".tsv": "Prompt\tCategory\tNote\n" + "".join(f"{text}\tArts\t\n" for text in texts),
        ".csv": "number,prompt\n" + "".join(f"1,{text}\r\n" for text in quoted),
        ".jsonl": "".join(
            json.dumps({"id": f"{i:05d}", "text": t}) + "\n" for i, t in enumerate(texts)
        ),
        "field.jsonl": "".join(json.dumps({"prompt": t, "seed": 1} | fields) + "\n" for t in texts),
        "texts.jsonl": "\r\n".join(map(json.dumps, texts)),
    }


@pytest.mark.parametrize("kind", [*lists(TEXTS), ".parquet"])
def test_every_kind_of_file_gives_the_same_prompts_without_duplicates(kind, tmp_path):
    path = tmp_path / f"list{kind}"
    if kind == ".parquet":
        parquet.write_table(pyarrow.table({"url": TEXTS, "caption": TEXTS}), path)
    else:
        path.write_text("\ufeff" + lists(TEXTS)[kind], encoding="utf-8", newline="")
    prompts = make_prompts(PromptSettings(source=str(path)))
    texts = ["a red circle", 'ein "Käse", 🧀', "two spaces here", "日本語"]
    assert prompts == [Prompt(f"{i:05d}", text, path.name) for i, text in enumerate(texts)]


ORDINARY = {
    "an emoji with joiners": "a family: 👩\u200d👩\u200d👧\u200d👦 ❤\ufe0f",
    "Persian with a non-joiner": "می\u200cخواهم یک گربه",
    "Hebrew with marks of direction": "\u200fחתול\u200e and a cat",
    "Hindi": "एक बिल्ली क्\u200dष",
    "a no-break space": "100\u00a0km to the sea",
    "a line separator": "a cat\u2028and a dog",
    "an unassigned and a private character": "a \U0001fbff \ue000 sign",
}


@pytest.mark.parametrize("kind", [*lists(TEXTS), ".parquet", "configuration"])
def test_ordinary_text_of_any_script_is_a_prompt(kind, tmp_path):
    texts, path = [*ORDINARY.values()], tmp_path / f"list{kind}"
    values = {"source": str(path)}
    if kind == ".parquet":
        parquet.write_table(pyarrow.table({"caption": texts}), path)
    elif kind == "configuration":
        values = {"source": texts}
        validate({"prompts": {"a": values}}, {})
    else:
        path.write_text(lists(texts)[kind], encoding="utf-8", newline="")
    prompts = make_prompts(PromptSettings.from_dict(values))
    plain = [text.replace("\xa0", " ").replace("\u2028", " ") for text in texts]
    assert [prompt.text for prompt in prompts] == plain
    write_prompts(tmp_path / "made.jsonl", prompts)
    assert read_prompts(tmp_path / "made.jsonl") == prompts


@pytest.mark.parametrize("identity", ["NA", "null", "nan", "None", "1e5", "007", "True", "inf", 7])
def test_ids_are_text_whatever_they_look_like(identity, tmp_path):
    entries = [{"id": identity, "prompt": "a cat", "source": None}, {"id": None, "prompt": "a dog"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, entries)))
    prompts = make_prompts(PromptSettings(source=str(tmp_path / "a.jsonl")))
    assert prompts == [
        Prompt(str(identity), "a cat", "a.jsonl"),
        Prompt("00001", "a dog", "a.jsonl"),
    ]
    write_prompts(tmp_path / "made.jsonl", prompts)
    assert read_prompts(tmp_path / "made.jsonl") == prompts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a cat\r\n\r\n \xa0\u200b\na dog\n\n"),
        ("b.jsonl", '{"prompt": "a cat"}\n\n\t\n{"prompt": "a dog"}\n'),
        ("c.csv", "prompt,n\na cat,1\n,\n\na dog,2\n\n"),
        ("c2.csv", "prompt\na cat\n\n \na dog\n"),
        ("d.tsv", "prompt\tn\na cat\t1\n\n\na dog\t2\n"),
    ],
)
def test_blank_lines_are_skipped_and_counted_once(name, text, tmp_path, capsys):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    for _ in range(2):
        prompts = make_prompts(PromptSettings(source=str(tmp_path / name)))
        assert [(p.id, p.text) for p in prompts] == [("00000", "a cat"), ("00001", "a dog")]
    assert capsys.readouterr().err == f"warning: {tmp_path / name}: 2 blank lines are skipped\n"


def test_json_lines_of_this_project_are_read_by_their_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "x", "text": "a cat", "caption": "no"}\n')
    (prompt,) = make_prompts(PromptSettings(source=str(tmp_path / "a.jsonl")))
    assert prompt == Prompt("x", "a cat", "a.jsonl")


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_the_column_of_the_prompts_can_be_named(kind, tmp_path):
    path = str(tmp_path / f"own{kind}")
    if kind == ".parquet":
        parquet.write_table(pyarrow.table({"text": ["no"], "my words": ["a cat"]}), path)
    else:
        comma = "," if kind == ".csv" else "\t"
        (tmp_path / f"own{kind}").write_text(
            json.dumps([{"text": "no", "my words": "a cat"}])
            if kind == ".json"
            else json.dumps({"text": "no", "my words": "a cat"})
            if kind == ".jsonl"
            else f"text{comma}my words\nno{comma}a cat\n"
        )
    assert [p.text for p in make_prompts(PromptSettings(source=path, column="my words"))] == [
        "a cat"
    ]
    assert "has no column words, but" in refusal(
        make_prompts, PromptSettings(source=path, column="words")
    )
    (tmp_path / "plain.txt").write_text("a cat\n")
    plain = PromptSettings(source=str(tmp_path / "plain.txt"), column="my words")
    assert "has no columns: remove the key column" in refusal(make_prompts, plain)


def test_a_field_of_a_csv_file_may_hold_lines_but_a_prompt_is_one(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"a cat,\nasleep"\n\n2,"a ""dog"""\n')
    texts = [p.text for p in make_prompts(PromptSettings(source=str(tmp_path / "a.csv")))]
    assert texts == ["a cat, asleep", 'a "dog"']


def test_prompts_that_differ_in_form_only_are_duplicates_if_wanted(tmp_path):
    path = tmp_path / "list.txt"
    same = ["A cat, on a mat.", "a cat on a mat", "Ａ CAT — on a mat!"]
    others = ["a cat + a mat", "🦊", "🐱", "!!!", "...", "café", "cafe\u0301", "cafe"]
    path.write_text("\n".join([*same, *others]))
    exact = [p.text for p in make_prompts(PromptSettings(source=str(path)))]
    assert exact == [*same, "a cat + a mat", "🦊", "🐱", "!!!", "...", "café", "cafe"]
    loose = make_prompts(PromptSettings(source=str(path), duplicates="normalised"))
    assert [p.text for p in loose] == [same[0], *exact[3:]]


def test_lists_with_names_are_drawn_each_by_itself(tmp_path):
    """The user study: 100 of PartiPrompts and 200 of HPSv2's four styles."""
    styles = [str(tmp_path / f"{style}.json") for style in ("anime", "photo")]
    for style in styles:
        Path(style).write_text(json.dumps([f"{Path(style).stem} {i}" for i in range(60)]))
    parti = tmp_path / "parti.tsv"
    parti.write_text("Prompt\tNote\n" + "".join(f"thing {i}\t\n" for i in range(80)))
    source = {"parti": str(parti), "hpsv2": styles}
    settings = PromptSettings(source=source, count={"parti": 10, "hpsv2": 20}, seed=3)
    prompts = make_prompts(settings)
    assert Counter(p.source for p in prompts) == {"parti": 10, "hpsv2": 20}
    assert len({p.id for p in prompts}) == 30 == prompt_count(settings)
    assert prompts[0].id == f"parti-{int(prompts[0].text.split()[1]):05d}"
    assert {p.text.split()[0] for p in prompts[10:]} == {"anime", "photo"}
    assert prompts == make_prompts(PromptSettings.from_dict(settings.to_dict()))
    parti.write_text("Prompt\tNote\n" + "".join(f"object {i}\t\n" for i in range(70)))
    assert make_prompts(settings)[10:] == prompts[10:]
    assert make_prompts(settings.model_copy(update={"seed": 4}))[10:] != prompts[10:]
    write_prompts(tmp_path / "study.jsonl", prompts)
    assert read_prompts(tmp_path / "study.jsonl") == prompts


def test_a_template_combines_every_entry_with_every_other(tmp_path):
    (tmp_path / "animals.txt").write_text("cat\nant\nUrsus arctos\nbear\n")
    (tmp_path / "activities.txt").write_text("washing the dishes\nplaying chess")
    source = {name: str(tmp_path / f"{name}.txt") for name in ("animals", "activities")}
    template = "{animals:a} {activities}"
    texts = [p.text for p in make_prompts(PromptSettings(source=source, template=template))]
    assert texts[:3] == [
        "a cat washing the dishes",
        "a cat playing chess",
        "an ant washing the dishes",
    ]
    assert texts[4] == "an Ursus arctos washing the dishes" and len(texts) == 8
    first = PromptSettings(source=source, template=template, first=2, count=3)
    assert len(make_prompts(first)) == 3
    assert {p.text.split()[1] for p in make_prompts(first.model_copy(update={"count": 4}))} == {
        "cat",
        "ant",
    }


def test_prompts_can_be_spelled_out_in_the_configuration():
    prompts = make_prompts(PromptSettings.from_dict({"source": ["bike", " fridge "]}))
    assert prompts == [
        Prompt("00000", "bike", "configuration"),
        Prompt("00001", "fridge", "configuration"),
    ]
    assert "prompts, entry 2: the prompt is empty" in refusal(
        make_prompts, PromptSettings(source=("bike", " "))
    )


def test_a_sample_depends_on_the_seed_alone(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(100)))
    first, again, other = (
        make_prompts(PromptSettings(source=str(path), count=10, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other and len({prompt.id for prompt in first}) == 10
    assert [p.text for p in first] == [f"prompt {int(p.id)}" for p in first]
    assert "has 100 different prompts, not 101" in refusal(
        make_prompts, PromptSettings(source=str(path), count=101)
    )


def test_a_file_that_shares_prompts_with_the_training_set_is_refused(tmp_path):
    path = tmp_path / "validation.txt"
    path.write_text("a cat\nA  red, circle.\na dog\n")
    train = [Prompt("1", "a red Circle", "train")]
    settings = PromptSettings(source=str(path))
    message = refusal(make_prompts, settings, train)
    assert "validation.txt shares 1 prompts" in message and "'A red, circle.'" in message
    assert len(make_prompts(settings, [Prompt("1", "a fox", "train")])) == 3
    dropped = make_prompts(settings.model_copy(update={"overlap": "drop", "count": 2}), train)
    assert [(p.id, p.text) for p in dropped] == [("00000", "a cat"), ("00002", "a dog")]
    assert len(make_prompts(settings.model_copy(update={"overlap": "allow"}), train)) == 3
    assert "has 2 different prompts, not 3" in refusal(
        make_prompts, settings.model_copy(update={"overlap": "drop", "count": 3}), train
    )


def test_the_shapes_world_gives_disjoint_sets():
    train = make_prompts(PromptSettings(source="shapes", count=64, seed=1))
    validation = make_prompts(PromptSettings(source="shapes", count=64, seed=1), train)
    held_out = make_prompts(PromptSettings(source="shapes", count=64, seed=2, held_out=True), train)
    sets = [{prompt.text for prompt in prompts} for prompts in (train, validation, held_out)]
    assert all(len(texts) == 64 for texts in sets) and len(set.union(*sets)) == 3 * 64
    assert train[7].id == "00007" and train[7].source == "shapes"
    assert train == make_prompts(PromptSettings(source="shapes", count=64, seed=1))
    assert "needs a count" in refusal(make_prompts, PromptSettings(source="shapes"))


def test_a_set_can_be_restricted_by_words(tmp_path):
    plain = PromptSettings(source="shapes", count=64, seed=1, without=("ring", "cross"))
    rings = PromptSettings(
        source="shapes", count=64, seed=1, held_out=True, containing=("ring", "cross")
    )
    words = [{w for p in make_prompts(s) for w in p.text.split()} for s in (plain, rings)]
    assert not words[0] & {"ring", "cross"} and words[1] > {"ring", "cross"}
    assert all({"ring", "cross"} & set(p.text.split()) for p in make_prompts(rings))
    path = tmp_path / "list.txt"
    path.write_text("A Ring, of gold\na string\na cross\n")
    texts = [
        p.text for p in make_prompts(PromptSettings(source=str(path), containing=("ring", "cross")))
    ]
    assert texts == ["A Ring, of gold", "a cross"]
    nothing = PromptSettings(source=str(path), containing=("gold",), without=("ring",))
    assert "has no prompt with the requested words" in refusal(make_prompts, nothing)
    few = PromptSettings(source=str(path), count=2, without=("ring",), containing=("cross",))
    assert "has 1 different prompts, not 2" in refusal(make_prompts, few)


def test_a_set_may_overlap_where_that_is_its_purpose():
    train = make_prompts(PromptSettings(source="shapes", count=32, seed=1))
    assert (
        make_prompts(PromptSettings(source="shapes", count=32, seed=1, overlap="allow"), train)
        == train
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"without": ("rings",)}, "prompts.test.without: no caption .* 'rings'; did you mean ring"),
        ({"containing": ("a",)}, "prompts.test.containing: no caption of the world shapes"),
        (
            {"containing": ("ring",), "without": ("ring",)},
            "has the word ring in both containing and without",
        ),
    ],
)
def test_words_that_cannot_be_meant_are_refused(settings, said):
    sets = {
        "train": PromptSettings(source="shapes", count=4),
        "test": PromptSettings(source="shapes", count=4, **settings),
    }
    with pytest.raises(UserError, match=said):
        check_sources(sets, ("shapes",), ["train"])


def test_only_sets_to_judge_on_must_keep_clear_of_those_trained_on(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"a cat\nonly in {name}\n")
    first, second = (PromptSettings(source=str(tmp_path / f"{name}.txt")) for name in ("a", "b"))
    check_sources({"x": second, "train": first}, (), ["train", "x"])
    check_sources(
        {"x": PromptSettings(source=second.source, overlap="allow"), "train": first}, (), ["train"]
    )
    with pytest.raises(
        UserError, match="b.txt shares 1 prompts .* or keep them with overlap: allow"
    ):
        check_sources({"x": second, "train": first}, (), ["train"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "list.docx"}, "source must be shapes, a .txt file, .* not 'list.docx'"),
        ({"source": "a.txt", "held_out": True}, "held_out is for an embedded world's prompts"),
        ({"source": {"a": "a.txt", "b": "b.txt"}, "count": 3}, "count must say how many of each"),
        ({"source": {"a": "a.txt"}, "count": {"b": 3}}, "count must name the lists of source: a"),
        ({"source": {"a": "a.txt"}, "template": "a photo"}, "template must have a field for each"),
        (
            {"source": {"a": "a.txt"}, "template": "{b}"},
            "template must .* for each list of source: {a}",
        ),
        ({"source": "a.txt", "template": "{a}"}, "template must have a field for each"),
        (
            {"source": {"a": "a.txt"}, "template": "{a}", "count": {"a": 2}},
            "count must be one number, because template combines",
        ),
    ],
)
def test_settings_that_do_not_fit_one_another_are_refused(settings, said):
    sets = {
        "train": PromptSettings(source="shapes", count=4),
        "test": PromptSettings.from_dict(settings),
    }
    with pytest.raises(UserError, match=f"prompts.test.{said}"):
        check_sources(sets, ("shapes",), ["train"])


def test_no_model_is_trained_on_a_benchmark():
    benchmarks = [path for path, file in table().items() if file.benchmark]
    assert {Path(path).name for path in benchmarks} >= {"PartiPrompts.tsv", "anime.json"}
    for path in benchmarks:
        sets = {"train": PromptSettings(source={"own": "own.txt", "more": path})}
        with pytest.raises(UserError, match="is a benchmark, which must not be trained on"):
            check_sources(sets, (), ["train"])
        check_sources(
            {"test": sets["train"], "train": PromptSettings(source="own.txt")}, (), ["train"]
        )
