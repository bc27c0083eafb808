"""What the raters of the user study said, as `rocm_core.study.aggregate` counted it."""

import json
from pathlib import Path

import pandas as pd

from rocm_core.errors import UserError


def read_outcomes(root: Path) -> pd.DataFrame:
    """One row a comparison and question of the study of the results in `root`: the fields of
    `Outcome.flat`. Raises `UserError` before votes are aggregated."""
    path = root / "study" / "results.json"
    try:
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["outcomes"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): aggregate the votes first") from None
