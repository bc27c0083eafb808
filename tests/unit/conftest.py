"""A tiny pipeline on the disk and a reward that needs no weights, for the tests of training."""

import pytest
import tiny

import rocm_core.training.trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def reward(monkeypatch):
    reward = tiny.Brightness()
    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda *_: reward)
    return reward
