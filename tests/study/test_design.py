"""Who sees what: blind, random and balanced."""

import math
import re
from collections import Counter
from itertools import pairwise

import pytest
from PIL import Image
from shapes_study import FIRST, SECOND, make_study, settings, write_samples

from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.study.build import build
from rocm_core.study.design import choose_prompts, make_pairs, make_raters, plan

PROMPTS = [Prompt(f"p{i}", f"prompt {i}", "parti" if i % 2 else "hpsv2") for i in range(41)]
IMAGES = [(f"one {i}", f"other {i}") for i in range(len(PROMPTS))]


def pairs_of(secret, count=None):
    return make_pairs(0, PROMPTS[:count], IMAGES[:count], secret)


def likely(successes, trials):
    """Is a count of fair coins within five standard deviations?"""
    return abs(successes - trials / 2) < 5 * math.sqrt(trials / 4)


@pytest.mark.parametrize("count", [40, 41])
def test_every_rater_sees_each_model_on_the_left_equally_often(count):
    for secret in map(str, range(50)):
        pairs = pairs_of(secret, count)
        for rater in make_raters(4, secret):
            shown = plan(pairs, rater)
            left = sum(shown[pair.id][0] == pair.first for pair in pairs)
            assert left in {count // 2, (count + 1) // 2}
            assert all(set(shown[pair.id]) == {pair.first, pair.second} for pair in pairs)


def test_each_pair_is_seen_both_ways_by_two_raters_in_a_row():
    pairs = pairs_of("secret")
    for one, other in pairwise(make_raters(5, "secret")):
        first, second = plan(pairs, one), plan(pairs, other)
        assert all(first[pair.id] == second[pair.id][::-1] for pair in pairs)
        assert list(first) != list(second)


def test_neither_side_nor_name_nor_place_in_the_order_tells_the_model():
    trials = 4000
    side = smaller = earlier = 0
    for secret in map(str, range(trials)):
        pairs = pairs_of(secret, 3)
        pair = pairs[0]
        side += pair.sides[0] == pair.first
        smaller += pair.first < pair.second
        shown = [p for p in plan(pairs, make_raters(1, secret)[0]).values()]
        lefts = [left in {p.first for p in pairs} for left, _ in shown]
        earlier += lefts[0]
    assert likely(side, trials) and likely(smaller, trials) and likely(earlier, trials)


def test_every_order_is_equally_likely():
    pairs = pairs_of("secret", 3)
    trials = 6000
    seen = Counter(tuple(plan(pairs, rater)) for rater in make_raters(trials, "another"))
    expected = trials / 6
    statistic = sum((count - expected) ** 2 / expected for count in seen.values())
    assert len(seen) == 6 and statistic < 29.9  # chi-squared, 5 degrees: p > 1.5e-5


def test_ids_need_the_secret_and_follow_the_images():
    one, again, other = pairs_of("secret"), pairs_of("secret"), pairs_of("another secret")
    assert one == again
    assert not {p.id for p in one} & {p.id for p in other}
    changed = make_pairs(0, PROMPTS, [("new", "new"), *IMAGES[1:]], "secret")
    assert changed[0].id != one[0].id and changed[1:] == one[1:]


def test_prompts_come_from_their_sources_in_proportion():
    prompts = [Prompt(f"p{i}", "x", s) for i, s in enumerate(["a"] * 150 + ["b"] * 250 + ["c"] * 9)]
    chosen = choose_prompts(prompts, 300, {"a": 1, "b": 2}, seed=0)
    assert Counter(p.source for p in chosen) == {"a": 100, "b": 200}
    assert len({p.id for p in chosen}) == 300
    assert chosen == choose_prompts(prompts, 300, {"a": 1, "b": 2}, seed=0)
    assert chosen != choose_prompts(prompts, 300, {"a": 1, "b": 2}, seed=1)
    split = Counter(p.source for p in choose_prompts(prompts, 11, {"a": 1, "b": 1, "c": 1}, 0))
    assert sorted(split.values()) == [3, 4, 4]
    assert len(choose_prompts(prompts, 409, {}, 0)) == 409
    with pytest.raises(
        UserError, match="200 prompts of c, but there are 150 of a, 250 of b, 9 of c"
    ):
        choose_prompts(prompts, 300, {"a": 1, "c": 2}, seed=0)


def test_nothing_in_the_page_names_a_model_a_prompt_id_or_a_seed(tmp_path):
    folder, key = make_study(tmp_path, 6)
    files = [file for file in (folder / "page").rglob("*") if file.is_file()]
    assert sorted(f.relative_to(folder / "page").as_posix() for f in files) == list(key.files)
    told = b"".join(file.read_bytes() + file.name.encode() for file in files)
    hidden = [*FIRST.split("/")[1:2], *SECOND.split("/")[1:2], "seed-0", "steps-4", "00001", "rocm"]
    assert not [word for word in hidden if word.encode() in told]
    assert (folder / "secret").read_bytes() not in told
    assert not [code for code in key.raters if code.encode() in told]
    images = [file for file in files if file.suffix == ".png"]
    assert len(images) == 12 and all(re.fullmatch(r"[0-9a-f]{32}", f.stem) for f in images)
    for file in images:
        with Image.open(file) as image:
            assert not image.info


def test_the_images_are_the_models_own(tmp_path):
    folder, key = make_study(tmp_path, 6)
    for pair in key.pairs.values():
        for name, model in ((pair.first, FIRST), (pair.second, SECOND)):
            original = tmp_path / f"samples/{model}/validation/steps-4/{pair.prompt}.png"
            with Image.open(original) as a, Image.open(folder / f"page/images/{name}.png") as b:
                assert a.tobytes() == b.tobytes()


def test_a_page_built_again_keeps_the_votes_of_unchanged_images(tmp_path):
    folder, key = make_study(tmp_path, 6)
    folders, prompts = write_samples(tmp_path / "again", 6)
    assert build(settings(6), folders, prompts, folder) == key
    victim = sorted(folders[FIRST].glob("*.png"))[0]
    Image.new("RGB", (32, 32), "pink").save(victim)
    changed = build(settings(6), folders, prompts, folder)
    assert len(changed.pairs.keys() & key.pairs.keys()) == 5
    for name in ("key.json", "key.manifest.json"):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_a_build_that_is_cut_off_leaves_the_study_before_it(tmp_path, monkeypatch):
    folder, key = make_study(tmp_path, 6)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    folders, prompts = write_samples(tmp_path / "again", 6)
    saved = []

    def save(self, path):
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        with pytest.raises(KeyboardInterrupt):
            build(settings(6, ties=False), folders, prompts, folder)
    assert {file: file.read_bytes() for file in before} == before
    other = build(settings(6, ties=False), folders, prompts, folder)
    assert other.study != key.study and other.pairs == key.pairs
    names = {"page", "key.json", "key.manifest.json", "secret"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "index.jsonl").unlink(), "index.jsonl does not exist: generate"),
        (lambda f: (f / "index.jsonl").write_text("[]\n"), "is not an index of images"),
        (lambda f: (f / "00003.png").unlink(), "has no image of the prompt 00003"),
        (lambda f: (f / "00003.png").write_text("x"), "00003.png is not a readable image"),
        (lambda f: (f / "index.jsonl").write_text('{"prompt_id": "00003", "text": "?",'
         ' "file": "00003.png"}'), "has no image of the prompt"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused_and_leave_no_key(tmp_path, damage, sentence):
    folders, prompts = write_samples(tmp_path, 4)
    damage(folders[SECOND])
    with pytest.raises(UserError, match=re.escape(sentence)):
        build(settings(4), folders, prompts, tmp_path / "study")
    assert not (tmp_path / "study/key.json").exists()
