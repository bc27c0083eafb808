"""The profile itself: needs no Slurm."""

import yaml
from checkout import ROOT

from rocm_core.figures import FIGURES
from rocm_core.tables import TABLES


def test_whatever_is_drawn_is_drawn_in_one_job() -> None:
    groups = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())["groups"]
    drawn = {rule for rule, group in groups.items() if group == "render"}
    assert drawn == {*TABLES, *FIGURES, "claims", "report"}
