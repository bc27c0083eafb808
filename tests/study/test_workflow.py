"""The study as the workflow plans and builds it from samples that are there."""

import json
import shutil

import pytest
import yaml
from checkout import ROOT, copy_checkout
from shapes_study import write_samples

from rocm_core.errors import UserError
from rocm_core.grid import parse_config
from rocm_core.prompts import write_prompts
from rocm_core.study.design import QUESTIONS, Key
from rocm_core.study.votes import VoteBook

FIRST, SECOND = "hpsv2/rocm-kl/seed-0", "base-consistency"
BEST = "hpsv2/rocm-best/seed-0"
PAIRS = 6


def configuration(**study):
    values = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    values["name"] = "studied"
    values["study"] = {"comparisons": [[FIRST, SECOND]], "pairs": PAIRS, **study}
    return values


def test_a_study_is_off_by_default_and_its_defaults_are_the_papers():
    assert parse_config(yaml.safe_load((ROOT / "config/demo.yaml").read_text())).study is None
    values = configuration()
    del values["study"]["pairs"]
    values["prompts"]["validation"]["count"] = 500
    study = parse_config(values).study
    assert study.comparisons == ((FIRST, SECOND),)
    assert (study.pairs, study.raters, study.ties, study.prompts) == (300, 10, True, "validation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"comparisons": [[FIRST, "hpsv2/rocm-k/seed-0"]]}, "study.comparisons did you mean"),
        ({"comparisons": [[FIRST, FIRST]]}, "study.comparisons[0] a list of two different names"),
        ({"comparisons": [[FIRST]]}, "study.comparisons[0] a list of two different names"),
        ({"comparisons": []}, "study.comparisons at least one"),
        ({"comparisons": [[BEST, FIRST]]}, f"study.comparisons {BEST} may turn out to be {FIRST}"),
        ({"comparisons": [[FIRST, BEST]]}, f"study.comparisons {BEST} may turn out to be {FIRST}"),
        (
            {"comparisons": [[BEST.replace("0", "7"), FIRST]]},
            f"study.comparisons did you mean {BEST}",
        ),
        ({"comparisons": [[BEST, "base-consistency"]], "pairs": 101}, "at most 100, half not 101"),
        ({"pairs": 201}, "study.pairs at most 200 not 201"),
        ({"pairs": 0}, "study.pairs from 1 to"),
        ({"prompts": "train"}, "study.prompts 'train'"),
        ({"prompts": "animals"}, "study.prompts 'animals'"),
        ({"shares": {"a": 0}}, "study.shares.a"),
        ({"pair": 3}, "study.pair did you mean pairs"),
    ],
)
def test_a_broken_study_is_refused_in_a_sentence_that_names_the_key(change, words):
    with pytest.raises(UserError) as error:
        parse_config(configuration(**change))
    assert [word for word in words.split() if word not in str(error.value)] == [], error.value


@pytest.mark.faults  # for its time
def test_snakemake_shows_the_best_draws_figure_3_and_keeps_the_votes(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    values = configuration(comparisons=[[BEST, SECOND]])
    (checkout.path / "config/studied.yaml").write_text(yaml.safe_dump(values))
    results = checkout.path / "results/studied"
    folders, prompts = write_samples(tmp_path / "made", 2 * PAIRS)
    write_prompts(results / "prompts/validation.jsonl", prompts)
    for score, (name, folder) in enumerate(zip((SECOND, FIRST), folders.values(), strict=True)):
        samples = results / f"samples/{name}/validation/steps-4"
        shutil.copytree(folder, samples)
        rows = "".join(f"{prompt.id},aesthetic,{score}\n" for prompt in prompts)
        (samples / "scores.csv").write_text("prompt_id,metric,value\n" + rows)
    run = ["--configfile", "config/studied.yaml", "--config", "partial=true", "--cores", "1"]

    built = checkout.snakemake("study", *run)
    assert built.returncode == 0, built.stderr
    key = Key.read(results / "study")
    assert len(key.pairs) == PAIRS and key.comparisons == ((FIRST, SECOND),)
    assert key.chosen[BEST]["merits"] == {FIRST: 1.0}
    said = (results / "logs/study/build.log").read_text()
    assert said.startswith(f"{BEST} is {FIRST}: ") and "hpsv2/rocm-js/seed-0" in said
    waiting = checkout.snakemake("-n", "figure3", *run)
    assert waiting.returncode != 0
    assert waiting.stderr.strip().splitlines()[-1] == (
        "error: results/studied/study/votes.jsonl does not exist: vote first, on the page that"
        " `python -m rocm_core.study serve --study results/studied/study` serves"
    )

    book = VoteBook(key, results / "study/votes.jsonl")
    for code in key.raters:
        for pair, left, _ in book.session(code)["order"]:
            vote = {"rater": code, "pair": pair, "answers": dict.fromkeys(QUESTIONS, left)}
            book.record(json.dumps(vote).encode())
    book.close()
    votes = (results / "study/votes.jsonl").read_bytes()
    drawn = checkout.snakemake("figure3", "--forceall", *run)  # the page is made again, too
    assert drawn.returncode == 0, drawn.stderr
    assert Key.read(results / "study") == key
    assert (results / "study/votes.jsonl").read_bytes() == votes
    assert all((results / f"figures/figure3.{s}").stat().st_size for s in ("pdf", "png", "csv"))
    found = json.loads((results / "study/results.json").read_text())["outcomes"]
    assert [row["left_rate"] for row in found] == [1, 1, 1]
    assert [row["win_rate"] for row in found] == [0.5] * 3


def test_without_a_study_in_the_configuration_the_target_says_so(pristine):
    shown = pristine.snakemake("-n", "study")
    assert shown.returncode != 0
    assert shown.stderr.strip().splitlines()[-1] == (
        "error: there is no study in the configuration: add the key study"
    )
