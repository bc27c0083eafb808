"""The table of differences between our scorers and the published ones says what it should."""

import csv
from pathlib import Path

import numpy as np
import pytest

from rocm_core.errors import UserError
from rocm_core.evaluation import write_agreement


def write(path: Path, rows: list[tuple]) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = "".join(f"{prompt},{metric},{value!r}\n" for prompt, metric, value in rows)
    path.write_text("prompt_id,metric,value\n" + text)
    return path


def test_differences_are_those_of_the_same_image_and_metric(tmp_path):
    ours, judged = [], []
    for index, folder in enumerate("ab"):
        own = [("007", "hpsv2", 0.25 + index), ("NA", "hpsv2", 0.5), ("007", "aesthetic", 5.0)]
        ours.append(write(tmp_path / folder / "scores.csv", own))
        other = [("NA", "hpsv2", 0.5 + 0.01 * index), ("007", "hpsv2", 0.25 + index)]
        judged.append(write(tmp_path / folder / "published.csv", other))
    write_agreement(ours, judged, tmp_path / "agreement.csv")
    with open(tmp_path / "agreement.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["metric"], row["images"]) == ("hpsv2", "4")
    own, other = [0.25, 0.5, 1.25, 0.5], [0.25, 0.5, 1.25, 0.51]
    assert float(row["ours"]) == pytest.approx(0.625)
    assert float(row["published"]) == pytest.approx(0.6275)
    assert float(row["mean_difference"]) == pytest.approx(0.0025)
    assert float(row["largest_difference"]) == pytest.approx(0.01)
    assert float(row["correlation"]) == pytest.approx(np.corrcoef(own, other)[0, 1], rel=1e-5)


def test_an_image_that_only_the_judge_scored_is_refused(tmp_path):
    ours = write(tmp_path / "scores.csv", [("1", "hpsv2", 0.2)])
    judged = write(tmp_path / "published.csv", [("1", "hpsv2", 0.2), ("2", "hpsv2", 0.2)])
    with pytest.raises(UserError, match="published.csv scores images that"):
        write_agreement([ours], [judged], tmp_path / "agreement.csv")
    judged.write_text("prompt_id,metric,value\n1,hpsv2,high\n")
    with pytest.raises(UserError, match="published.csv and .*scores.csv cannot be compared"):
        write_agreement([ours], [judged], tmp_path / "agreement.csv")
    judged.write_text("nothing")
    with pytest.raises(UserError, match="published.csv and .*scores.csv cannot be compared"):
        write_agreement([ours], [judged], tmp_path / "agreement.csv")
