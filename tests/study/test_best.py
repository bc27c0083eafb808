"""The best of several models is chosen where raters do not look."""

import json

import pytest
from PIL import Image

from rocm_core.configuration import Contest, StudySettings
from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.study.best import best, describe
from rocm_core.study.build import build

NAME, OTHER = "hpsv2/rocm-best/seed-0", "hpsv2/rlcm/seed-0"
NONE, KL, JS = (f"hpsv2/rocm-{divergence}/seed-0" for divergence in ("none", "kl", "js"))
PROMPTS = [Prompt(f"p{number:02d}", f"prompt {number}", "x") for number in range(12)]
CHOOSE = [prompt.id for prompt in PROMPTS[::2]]
SPREAD = [0.0, 0.0, 2.0, 2.0] * 3  # the base's scores; their deviation counts as one


def contest(folder, gains, missing=()):
    """Cells whose scores exceed the base's by `gains`: {cell: {metric: {prompt id: gain}}}."""
    files = {}
    for name, gain in {"base": {}, **gains}.items():
        files[name] = folder / f"{name.replace('/', '-')}.csv"
        rows = [
            f"{prompt.id},{metric},{value + gain.get(metric, {}).get(prompt.id, 0.0)}\n"
            for metric in ("hpsv2", "aesthetic", "clipscore", "gold")
            for prompt, value in zip(PROMPTS, SPREAD, strict=True)
        ]
        files[name].write_text("prompt_id,metric,value\n" + "".join(rows))
    scores = {name: str(path) for name, path in files.items() if name != "base"}
    return Contest(reward="hpsv2", base=str(files["base"]), scores=scores, missing=missing)


def everywhere(gain, prompts=PROMPTS):
    return {prompt.id: gain for prompt in prompts}


def test_held_out_scorers_choose_on_the_half_that_raters_do_not_see(tmp_path):
    gains = {
        NONE: {"hpsv2": everywhere(9.0), "gold": everywhere(9.0)},  # neither has a say
        KL: {"aesthetic": everywhere(9.0, PROMPTS[1::2])},  # where the study looks
        JS: {"aesthetic": everywhere(1.0), "clipscore": everywhere(0.5)},
    }
    choice = best(contest(tmp_path, gains), PROMPTS, PROMPTS[1::2])
    deviation = (12 / 11) ** 0.5  # of SPREAD, of a sample
    assert choice["model"] == JS and choice["metrics"] == ["aesthetic", "clipscore"]
    assert choice["merits"] == pytest.approx({NONE: 0, KL: 0, JS: 0.75 / deviation})
    assert choice["prompts"] == 6 and choice["ties"] == choice["missing"] == []


def test_a_prompt_that_raters_see_does_not_choose_however_it_is_spelled(tmp_path):
    gains = {KL: {"aesthetic": {"p00": 9.0}}, JS: {"aesthetic": {"p02": 1.0}}}
    asked = contest(tmp_path, gains)
    assert best(asked, PROMPTS, [])["model"] == KL
    shown = [Prompt("parti-7", " Prompt  0!", "parti")]
    choice = best(asked, PROMPTS, shown)
    assert choice["model"] == JS and choice["prompts"] == 5
    with pytest.raises(UserError, match="are not of the prompts that choose"):
        best(asked, PROMPTS, PROMPTS)


def test_of_equals_the_first_is_taken_and_a_sentence_says_so(tmp_path):
    gains = {NONE: {}, KL: {"aesthetic": everywhere(1.0)}, JS: {"aesthetic": everywhere(1.0)}}
    choice = best(contest(tmp_path, gains, missing=("hpsv2/rocm-fisher/seed-0",)), PROMPTS, [])
    assert (choice["model"], choice["ties"]) == (JS, [KL])
    said = describe(NAME, choice)
    assert said.startswith(f"{NAME} is {JS}: mean change of aesthetic, clipscore against the base")
    assert f"{KL} is as good, and later by name" in said
    assert said.endswith("hpsv2/rocm-fisher/seed-0 has no images or scores and took no part")


def test_without_any_model_or_with_scores_of_other_prompts_nothing_is_chosen(tmp_path):
    nobody = contest(tmp_path, {}, missing=(KL, JS))
    with pytest.raises(UserError, match=f"none of {KL}, {JS} has images and scores"):
        best(nobody, PROMPTS, [])
    asked = contest(tmp_path, {KL: {}})
    text = (tmp_path / "hpsv2-rocm-kl-seed-0.csv").read_text()
    short = "".join(line for line in text.splitlines(True) if "p04" not in line)
    (tmp_path / "hpsv2-rocm-kl-seed-0.csv").write_text(short)
    with pytest.raises(UserError, match="hpsv2-rocm-kl-seed-0.csv are not of the prompts"):
        best(asked, PROMPTS, [])


def test_the_study_shows_the_chosen_model_on_the_other_half_and_records_why(tmp_path):
    folders = {}
    for number, name in enumerate((KL, JS, OTHER)):
        folder = folders[name] = tmp_path / name
        folder.mkdir(parents=True)
        lines = []
        for place, prompt in enumerate(PROMPTS):
            colour = (20 * place, 80 * number, 7)
            Image.new("RGB", (8, 8), colour).save(folder / f"{prompt.id}.png")
            row = {"prompt_id": prompt.id, "text": prompt.text, "file": f"{prompt.id}.png"}
            lines.append(json.dumps(row) + "\n")
        (folder / "index.jsonl").write_text("".join(lines))
    settings = StudySettings.from_dict({"comparisons": [[NAME, OTHER]], "pairs": 6})
    contests = {NAME: contest(tmp_path, {KL: {}, JS: {"aesthetic": everywhere(1.0)}})}
    study = tmp_path / "study"
    key = build(settings, folders, PROMPTS, study, "code", contests, PROMPTS)
    assert key.comparisons == ((JS, OTHER),) and key == key.read(study)
    assert not {pair.prompt for pair in key.pairs.values()} & {*CHOOSE}
    for pair in key.pairs.values():
        with Image.open(study / f"page/images/{pair.first}.png") as image:
            assert image.getpixel((0, 0)) == (20 * int(pair.prompt[1:]), 80, 7)
    manifest = json.loads((study / "key.manifest.json").read_text())
    assert manifest["chosen"] == key.chosen and key.chosen[NAME]["merits"].keys() == {KL, JS}
    assert sum("hpsv2-rocm" in file for file in manifest["inputs"]) == 2
    told = b"".join(file.read_bytes() for file in (study / "page").rglob("*") if file.is_file())
    assert b"rocm" not in told and b"merits" not in told
    with pytest.raises(UserError, match="needs 7 prompts, but there are 6 of x"):
        build(
            settings.model_copy(update={"pairs": 7}), folders, PROMPTS, study, "", contests, PROMPTS
        )
