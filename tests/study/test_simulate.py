"""Simulated raters answer as often as their noise says."""

import numpy as np
import pytest
import torch
from shapes_study import expected_score

from rocm_core.errors import UserError
from rocm_core.study import simulate


@pytest.mark.parametrize("gain", [-0.4, 0.0, 0.15, 0.8])
def test_the_planted_win_rate_is_how_often_simulated_raters_choose(gain, monkeypatch):
    verdicts = torch.tensor([0.5 + gain / 2, 0.5 - gain / 2])
    monkeypatch.setattr(simulate, "judge", lambda images, prompts: verdicts)
    rater, image, trials = simulate.SimulatedRater(0), torch.zeros(3, 32, 32), 4000
    pressed = np.array([rater.keys("a prompt", image, image) for _ in range(trials)])
    for question, keys in zip(simulate.NOISE, pressed.T, strict=True):
        score = (keys == "a").mean() + (keys == "s").mean() / 2
        assert score == pytest.approx(expected_score(gain, question), abs=0.035)
    assert expected_score(0, "appeal") == pytest.approx(0.5)


def test_a_missing_browser_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(simulate, "BROWSERS", ("no-such-browser",))
    with pytest.raises(UserError, match="no browser is installed: one of no-such-browser"):
        with simulate.open_browser():
            pass
