"""A tiny pipeline on the disk and a reward that needs no weights, for the tests of training; cells
of methods with the settings of the study."""

import pytest
import tiny
import yaml

import rocm_core.training.trainer
from rocm_core.grid import make_grid, parse_config
from rocm_core.plugins import ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def reward(monkeypatch):
    reward = tiny.Brightness()
    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda *_: reward)
    return reward


@pytest.fixture
def grid_cells():
    values = yaml.safe_load((ROOT / "config/shapes.yaml").read_text())
    for key in ("cells", "sweeps", "study", "gradients"):
        del values[key]

    def values_of(methods, **changes):
        return values | {"rewards": ["hpsv2"], "seeds": [0], "methods": methods} | changes

    def cells(methods, **changes):
        return make_grid(parse_config(values_of(methods, **changes)))

    cells.values = values_of
    return cells
