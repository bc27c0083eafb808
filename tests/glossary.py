"""docs/terms.md: the words that the report explains on hover, and those of these pages.

`python tests/glossary.py > docs/terms.md` writes the page again.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rocm_core.report.terms import TERMS  # noqa: E402

PAGE = ROOT / "docs" / "terms.md"


OF_THE_PAGES = {
    "base": "The model that a training starts from.",
    "reference": "The model that a divergence is measured to: the base, unless it is moved.",
    "policy": "A generator as a training sees it: a chain of K steps, each with a mean that the"
    " network predicts and noise of a known size.",
    "search": "Trainings with several values of a setting (its tries), of which held-out scorers"
    " choose one for the method.",
    "manifest": "A file beside a result: its settings, and the sha256 of what it was made from.",
    "fingerprint": "A sha256 of the code that a job uses; another one makes the job run again.",
    "shard": "What git keeps of a finished cell: history, scores and manifests, without LoRA and"
    " images.",
}


def page() -> str:
    rows = [f"| {term} | {meaning} |" for term, meaning in (TERMS | OF_THE_PAGES).items()]
    return "\n".join(["# Terms", "", "| term | meaning |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    print(page(), end="")
