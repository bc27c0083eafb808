"""What a configuration names is found in the working directory, else in the checkout."""

from pathlib import Path

import pytest

from rocm_core.errors import UserError
from rocm_core.provenance import here, located, sources
from rocm_core.weights import (
    catalogue,
    check_weights,
    digest_of_all,
    files_of,
    inputs_of,
    weights_digest,
)

TABLED = "weights/HPSv2"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A checkout of somebody else's with the table's files of HPSv2, and a folder to work in."""
    checkout, run = tmp_path / "checkout", tmp_path / "run"
    for file in (*files_of(TABLED), "lists/shipped.txt"):
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        (checkout / file).write_text(file)
    (run / "lists").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    for module in (sources, catalogue):
        monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.chdir(run)
    return checkout, run


def test_a_path_is_the_users_own_else_the_checkouts(places, monkeypatch):
    checkout, run = places
    assert located("lists") == Path("lists")
    assert located("lists/shipped.txt") == checkout / "lists/shipped.txt"
    assert located("nowhere/yet") == Path("nowhere/yet")
    assert located("../beside") == Path("../beside")
    assert located(run.parent / "beside") == run.parent / "beside"
    assert here("lists", "lists/shipped.txt", None, "nowhere/yet") == ["lists", "nowhere/yet"]
    (run / "lists/shipped.txt").touch()
    assert located("lists/shipped.txt") == Path("lists/shipped.txt")
    monkeypatch.chdir(checkout)
    assert located("lists/shipped.txt") == Path("lists/shipped.txt")


def test_weights_of_the_checkout_are_used_and_not_fetched_again(places, monkeypatch):
    checkout, run = places
    digest = weights_digest(TABLED)
    assert inputs_of(TABLED, None) == []
    with pytest.raises(UserError, match="not listed"):  # a lock is asked for there as here
        (checkout / "weights.lock").write_text("{}")
        check_weights(TABLED)
    (checkout / files_of(TABLED)[0]).unlink()
    (checkout / "weights.lock").unlink()
    with pytest.raises(UserError) as error:
        check_weights(TABLED)
    assert f"{checkout}/{files_of(TABLED)[0]} is missing" in str(error.value)
    assert f"`snakemake weights`, in {checkout}," in str(error.value)
    monkeypatch.setattr(sources, "ROOT", run)  # nobody has them
    assert inputs_of(TABLED) == files_of(TABLED)
    assert weights_digest(TABLED) == digest


def test_what_is_read_from_the_checkout_counts_by_its_content(places):
    checkout, run = places
    before = weights_digest("lists/shipped.txt")
    (run / "lists/shipped.txt").write_text("lists/shipped.txt")
    digest_of_all.cache_clear()
    assert weights_digest("lists/shipped.txt") == before
    (run / "lists/shipped.txt").write_text("another")
    assert weights_digest("lists/shipped.txt") != before
