"""How far our scorers are from the published packages, over the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rocm_core.errors import UserError
from rocm_core.provenance import CSV_OPTIONS, atomic_write

if TYPE_CHECKING:  # else every job of this room would import it
    import pandas as pd


def write_agreement(ours: Sequence[Path], published: Sequence[Path], output: Path) -> None:
    """Write one row per metric: images, means of both, mean and largest absolute difference, and
    Pearson's correlation. `ours` and `published` are the scores of the same folders, pairwise.

    Raises `UserError` for a file that cannot be read or scores an image that ours does not have.
    """
    import pandas as pd

    pairs = pd.concat([_paired(*files) for files in zip(ours, published, strict=True)])
    rows = []
    for metric, scores in pairs.groupby("metric"):
        difference = (scores["value"] - scores["published"]).abs()
        rows.append(
            {
                "metric": metric,
                "images": len(scores),
                "ours": scores["value"].mean(),
                "published": scores["published"].mean(),
                "mean_difference": difference.mean(),
                "largest_difference": difference.max(),
                "correlation": scores["value"].corr(scores["published"]),
            }
        )
    with atomic_write(output) as file:
        file.write(pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())


def _paired(ours: Path, published: Path) -> pd.DataFrame:
    import pandas as pd

    keys = ["prompt_id", "metric"]
    try:
        first, second = (pd.read_csv(p, **CSV_OPTIONS) for p in (ours, published))
        both = second.rename(columns={"value": "published"}).merge(
            first, on=keys, how="left", validate="1:1"
        )
        both = both.astype({"value": float, "published": float})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{published} and {ours} cannot be compared ({error}): score again"
        ) from None
    if both["value"].isna().any():
        raise UserError(f"{published} scores images that {ours} lacks: score them again")
    return both
