"""The recipe of the shapes world's scorers, at a few steps on images that stand in for a base's."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from rocm_core.recipes import scorers
from rocm_core.recipes.scorers import GENERATED, accuracy, change_one, make_candidates
from rocm_core.rewards import load_reward
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import draw_scenes, held_out, parse, render
from rocm_core.shapes.tokenizer import make_tokenizer


def base(captions, *, num_inference_steps, guidance_scale, generator, output_type):
    assert num_inference_steps in (1, 2, 4, 8) and 1 <= guidance_scale <= 4
    return SimpleNamespace(images=render(parse(captions), generator))


@pytest.mark.parametrize("name", scorers.RECIPES)
def test_a_trained_scorer_is_read_back_and_training_repeats(name, tmp_path, monkeypatch):
    monkeypatch.setattr(scorers, "RENDERINGS", 200)
    monkeypatch.setattr(scorers, "BATCH", 8)
    monkeypatch.setattr(scorers, "PAIRS", 4)
    tokenizer = make_tokenizer()
    recipe = scorers.scale(scorers.RECIPES[name], 0.01)
    scenes = draw_scenes(5, torch.Generator().manual_seed(0))
    images, captions = render(scenes, 0), scorers.describe(scenes)
    for attempt in ("first", "second"):
        trained = scorers.train(name, recipe, base, tokenizer)
        scorers.save_scorer(trained, tokenizer, tmp_path / attempt)
    loaded = load_reward(name, tmp_path / "first")
    assert loaded.name == name and sum(p.numel() for p in loaded.parameters()) < 450_000
    with torch.no_grad():
        expected, scores = trained.score(images, captions), loaded.score(images, captions)
    torch.testing.assert_close(scores, expected, atol=0.01, rtol=0.01)
    for file in (tmp_path / "first").rglob("*.*"):
        other = tmp_path / "second" / file.relative_to(tmp_path / "first")
        assert file.is_dir() or file.read_bytes() == other.read_bytes()


def test_candidates_are_judged_by_their_own_caption():
    candidates = make_candidates(base, 6, seed=3, unseen=True)
    assert all(held_out(caption) for caption in candidates.captions)
    assert candidates.images.shape == (6, GENERATED + 3, 3, 32, 32)
    for i in range(6):
        verdict = judge(candidates.images[i], [candidates.captions[i]] * (GENERATED + 3))
        torch.testing.assert_close(candidates.gold[i], verdict, atol=1e-4, rtol=0)
    assert candidates.gold[:, : GENERATED + 1].min() > 0.9 > candidates.gold.min()


def test_change_one_changes_one_attribute_at_most():
    scenes = draw_scenes(100, torch.Generator().manual_seed(0))
    changed = change_one(scenes, torch.Generator().manual_seed(1))
    differs = torch.stack(
        [
            (getattr(scenes, f.name) != getattr(changed, f.name)).view(100, -1).any(1)
            for f in fields(scenes)
        ]
    )
    assert differs.sum(0).max() == 1 and differs.any(1).sum() == 6


def test_accuracy_counts_clear_pairs_only():
    gold = torch.tensor([[0.1, 0.9, 0.92], [0.5, 0.2, 0.8]])
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 3.0, 4.0]])
    # clear: (0,1) right, (0,2) wrong; (0,1) a tie, (0,2) right, (1,2) right
    assert accuracy(scores, gold) == pytest.approx(3 / 5)
