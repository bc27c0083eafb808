"""The claims ledger: what a run says about each claim of the papers, and about our own questions.

A claim is a function that yields the comparisons it rests on (`rocm`, `rlcm`, `questions`,
`hacking`, `transfer`), and a rule that makes a verdict of their outcomes. docs/claims.md says how.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.analysis import LEVEL, MARGIN, RESAMPLES, Results
from rocm_core.claims import hacking, questions, rlcm, rocm, transfer
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import Claim, Verdict, decide
from rocm_core.claims._write import limits, markdown, record
from rocm_core.provenance import atomic_write, write_json

CLAIMS = tuple(
    value
    for module in (questions, hacking, transfer, rocm, rlcm)
    for value in vars(module).values()
    if isinstance(value, Claim)
)


@dataclass(frozen=True)
class Ledger:
    """All verdicts on a run."""

    name: str
    judge: str
    verdicts: list[Verdict]

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON values."""
        return {
            "name": self.name,
            "judge": self.judge,
            "level": LEVEL,
            "margin": MARGIN,
            "resamples": RESAMPLES,
            "limits": limits(self.verdicts),
            "claims": [record(verdict) for verdict in self.verdicts],
        }

    def save(self, stem: Path) -> None:
        """Write `stem` with the suffixes .json and .md."""
        write_json(stem.with_suffix(".json"), self.to_dict())
        with atomic_write(stem.with_suffix(".md")) as file:
            file.write(markdown(self.name, self.verdicts).encode())


def make(results: Results) -> Ledger:
    """Decide every claim by the results of a run."""
    evidence = Evidence(results)
    return Ledger(results.config.name, evidence.judge, [decide(c, evidence) for c in CLAIMS])
