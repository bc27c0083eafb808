"""The learning of the shapes world's scorers, at a few steps on renderings that stand in for the
bases' images."""

import pytest
import torch

from rocm_core.recipes import scorers
from rocm_core.recipes.choices import judged
from rocm_core.recipes.degradations import degrade
from rocm_core.recipes.scorers import accuracy, choices_of
from rocm_core.rewards import load_reward
from rocm_core.shapes.scenes import parse, render, sample_captions
from rocm_core.shapes.tokenizer import make_tokenizer


def candidates(seed):
    """Two perfect and two degraded renderings of each of six captions."""
    g = torch.Generator().manual_seed(seed)
    captions = sample_captions(6, seed)
    columns = [render(parse(captions), g) for _ in range(4)]
    columns = [*columns[:2], *(degrade(images, g) for images in columns[2:])]
    return judged(captions, [(images * 255).round().to(torch.uint8) for images in columns])


# HPSv2's recipe is PickScore's with another temperature.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.faults if n == "hpsv2" else []) for n in scorers.RECIPES],
)
def test_a_trained_scorer_is_read_back_and_training_repeats(name, tmp_path, monkeypatch):
    monkeypatch.setattr(scorers, "RENDERINGS", 200)
    monkeypatch.setattr(scorers, "BATCH", 8)
    monkeypatch.setattr(scorers, "ROWS", 4)
    monkeypatch.setattr(scorers, "on_policy", lambda *given: vars(candidates(given[3])))
    tokenizer, base = make_tokenizer(), candidates(0)
    steps = {key: 11 for key in ("contrast_steps", "choice_steps", "round_steps")}
    recipe = scorers.RECIPES[name]
    recipe = scorers.replace(recipe, **{k: v for k, v in steps.items() if getattr(recipe, k)})
    for attempt, state in (("first", "a"), ("second", "b"), ("resumed", "b")):
        state = tmp_path / "state" / state
        trained = scorers.train(name, recipe, tmp_path, base, tokenizer, state)
        scorers.save_scorer(trained, tokenizer, tmp_path / attempt)
    loaded = load_reward(name, tmp_path / "first")
    assert loaded.name == name and sum(p.numel() for p in loaded.parameters()) < 450_000
    images, captions = base.images[:, 0] / 255, base.captions
    with torch.no_grad():
        expected, scores = trained.score(images, captions), loaded.score(images, captions)
    torch.testing.assert_close(scores, expected, atol=0.01, rtol=0.01)
    for file in (tmp_path / "first").rglob("*.*"):
        for attempt in ("second", "resumed"):
            other = tmp_path / attempt / file.relative_to(tmp_path / "first")
            assert file.is_dir() or file.read_bytes() == other.read_bytes()


def test_a_rater_prefers_what_is_clearly_better_and_contradicts_itself_never():
    gold = torch.tensor([[0.1, 0.9, 0.12]]).expand(4000, -1)
    recipe = scorers.Recipe(seed=0, contrast_steps=1, temperature=0.1, slips=0.2)
    chosen = choices_of(gold, recipe, torch.Generator().manual_seed(0))
    above = torch.ones(3, 3).triu(1).bool()
    torch.testing.assert_close(chosen[:, above], 1 - chosen.mT[:, above])
    assert chosen[:, 1, 0].mean() == pytest.approx(0.8 + 0.1, abs=0.02)
    assert chosen[:, 2, 0].mean() == pytest.approx(0.8 * 0.55 + 0.1, abs=0.03)
    assert set(chosen.unique().tolist()) == {0, 1}


def test_accuracy_counts_clear_pairs_only():
    gold = torch.tensor([[0.1, 0.9, 0.92], [0.5, 0.2, 0.8]])
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 3.0, 4.0]])
    # clear: (0,1) right, (0,2) wrong; (0,1) a tie, (0,2) right, (1,2) right
    assert accuracy(scores, gold) == pytest.approx(3 / 5)
