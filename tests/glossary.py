"""docs/terms.md, made of the words that the report explains on hover.

`python tests/glossary.py > docs/terms.md` writes the page again.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rocm_core.report.terms import TERMS  # noqa: E402

PAGE = ROOT / "docs" / "terms.md"


def page() -> str:
    rows = [f"| {term} | {meaning} |" for term, meaning in TERMS.items()]
    return "\n".join(["# Terms", "", "| term | meaning |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    print(page(), end="")
