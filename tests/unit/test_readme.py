"""The README's example of the library does what its comments say."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs_and_the_base_has_no_distance_to_itself(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (1, 3, 32, 32)
    assert names["reward"].shape == (1,) and names["reward"].isfinite().all()
    assert names["kl"].shape == (1, 3) and not names["kl"].any()
