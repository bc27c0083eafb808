"""A configuration of a name that another one's results have is refused before anything runs."""

import json
import shutil

import pytest
from checkout import Checkout

from rocm_core.errors import UserError
from rocm_core.provenance import Layout, record_origin, require_same_origin

RECORD = "results/matrix/configuration.json"


def copied(checkout: Checkout) -> str:
    shutil.copy(checkout.path / "config/matrix.yaml", checkout.path / "config/mine.yaml")
    return "config/mine.yaml"


def test_another_file_with_other_contents_is_refused(complete: Checkout, tmp_path) -> None:
    checkout = complete.copied(tmp_path / "checkout")
    mine = copied(checkout)
    assert checkout.jobs(config=mine) == {}
    checkout.edit(mine, "aesthetic/rocm-js: {beta: 0.25}", "aesthetic/rocm-js: {beta: 0.3}")
    for arguments in (["-n"], ["--cores", "1"], ["-n", "--profile", "local"]):
        done = checkout.snakemake(*arguments, "all", "--configfile", mine)
        assert done.returncode != 0 and done.stdout == ""
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert said == (
            "error: results/matrix holds the results of config/matrix.yaml, from which"
            " config/mine.yaml, of the same name, differs in cells: change its `name`, or remove"
            f" {RECORD} to go on there"
        )
    checkout.edit(mine, "name: matrix", "name: mine")
    assert checkout.jobs(config=mine)["train_cell"] == 6
    checkout.edit(mine, "name: mine", "name: matrix")
    (checkout.path / RECORD).unlink()
    assert checkout.jobs(config=mine)["train_cell"] == 1


def test_an_edit_of_the_file_and_overrides_are_not_another_configuration(
    finished: Checkout,
) -> None:
    finished.edit(
        "config/matrix.yaml", "aesthetic/rocm-js: {beta: 0.25}", "aesthetic/rocm-js: {beta: 0.3}"
    )
    assert finished.jobs()["train_cell"] == 1
    assert finished.jobs("--config", "partial=true").keys() >= {"report"}
    with open(finished.path / "config/overlay.yaml", "w") as file:
        file.write("snapshots: {prompts: 3}\n")
    assert finished.jobs("config/overlay.yaml")["evaluate_snapshots"] == 6


@pytest.mark.faults  # for its time
def test_another_file_over_the_same_one_is_another_configuration(
    finished: Checkout,
) -> None:
    for name, beta in (("one", 0.3), ("two", 0.4)):
        cells = f"cells: {{aesthetic/rocm-js: {{beta: {beta}}}}}\n"
        (finished.path / f"config/{name}.yaml").write_text(cells)
    assert finished.jobs("config/one.yaml")["train_cell"] == 1
    record = json.loads((finished.path / RECORD).read_text())
    record["files"].append("config/two.yaml")
    (finished.path / RECORD).write_text(json.dumps(record))
    assert finished.jobs("config/two.yaml")["train_cell"] == 1
    done = finished.snakemake("-n", "--configfile", "config/matrix.yaml", "config/one.yaml")
    assert done.returncode != 0
    assert "holds the results of config/matrix.yaml, config/two.yaml, from which" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["{", '{"files": 1}', *(pytest.param(text, marks=pytest.mark.faults) for text in ("", "[1]"))],
)
def test_a_broken_record_is_named(finished: Checkout, text: str) -> None:
    (finished.path / RECORD).write_text(text)
    done = finished.snakemake("-n", "all", "--configfile", "config/matrix.yaml")
    assert done.returncode != 0 and f"{RECORD} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_without_an_optional_section_is_another_configuration(tmp_path) -> None:
    """`base_rewards: false` is not among the sections."""
    layout = Layout(tmp_path)
    record_origin(layout, ["config/one.yaml"], {"methods": "m", "base_rewards": "b"})
    with pytest.raises(UserError, match="differs in base_rewards"):
        require_same_origin(layout, ["config/two.yaml"], {"methods": "m"})
    require_same_origin(layout, ["config/two.yaml"], {"methods": "m", "base_rewards": "b"})
