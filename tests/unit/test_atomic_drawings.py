"""What is drawn replaces what was there as a whole, or not at all."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rocm_core.claims.ledger import Ledger
from rocm_core.figures._style import Drawing
from rocm_core.provenance import Layout
from rocm_core.report.build import Report
from rocm_core.tables._table import Table

DATA = pd.DataFrame({"method": ["rocm-kl"], "mean": [0.5]})
DRAWN = {
    "table": Table("Title", "Caption", ["method"], [], DATA),
    "figure": Drawing(Figure(), DATA, "Title", "Caption"),
    "claims": Ledger("run", "gold", []),
    "report": Report("<html></html>"),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_full_disk_leaves_the_old_files_and_no_others(kind, tmp_path, monkeypatch):
    files = [tmp_path / f"drawn.{suffix}" for suffix in Layout.SUFFIXES[kind]]
    for file in files:
        file.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rocm_core.provenance.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        DRAWN[kind].save(tmp_path / "drawn")
    assert {file: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(files, "old")
    monkeypatch.undo()
    DRAWN[kind].save(tmp_path / "drawn")
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.read_bytes() not in (b"", b"old") for file in files)
