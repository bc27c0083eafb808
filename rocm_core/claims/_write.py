"""The ledger in words and as JSON."""

from collections.abc import Iterable
from typing import Any

from rocm_core.analysis import Estimate, amount, decimals, number
from rocm_core.claims._verdict import EFFECT, FACTOR, SHARE, Finding, Verdict

_UNITS = {EFFECT: " SD"}


def number_of(finding: Finding | None) -> str:
    """A difference in its unit with its interval: "+0.12 SD [+0.03, +0.20]"; empty without one."""
    shown = finding.shown if finding else None
    if finding is None or shown is None:
        return ""
    unit = finding.part.unit
    digits = decimals(shown.half_width)
    if unit == FACTOR:
        low, high = (number(value, digits) for value in (shown.low, shown.high))
        return f"× {number(shown.mean, digits)} [{low}, {high}]"
    return _interval(shown, digits, unit)


def details_of(finding: Finding) -> str:
    """What else there is to say: effect, wins, p, and over what."""
    comparison = finding.part.comparison
    if comparison is None:
        return finding.part.missing or ""
    told = []
    if comparison.effect and finding.part.unit not in (EFFECT, SHARE):
        told.append(_interval(comparison.effect, 2, EFFECT))
    if comparison.win_rate and finding.part.unit != SHARE:
        rate = comparison.win_rate
        told.append(f"wins {rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}]")
    told.append(f"p {_p(comparison.p)}")
    if finding.p_corrected is not None and finding.p_corrected != comparison.p:
        told.append(f"corrected {_p(finding.p_corrected)}")
    prompts = [amount([comparison.difference.n], "prompt")] if comparison.difference.n else []
    return "; ".join([*told, ", ".join([*prompts, amount([comparison.seeds], "seed")])])


def record(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON values; `decisive` is the place of the part that decided, or null."""
    claim, findings = verdict.claim, verdict.findings
    places = [n for n, finding in enumerate(findings) if finding is verdict.decisive]
    return {
        "id": claim.id,
        "claim": claim.text,
        "test": claim.test,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "decisive": places[0] if places else None,
        "parts": [_record(finding) for finding in findings],
    }


def _record(finding: Finding) -> dict[str, Any]:
    part, comparison = finding.part, finding.part.comparison
    row = {
        "label": part.label,
        "expects": part.expects,
        "outcome": finding.outcome,
        "shown": number_of(finding),
        "details": details_of(finding),
    }
    if comparison is None:
        return row | {"missing": part.missing}
    return row | {
        "unit": part.unit,
        "difference": _numbers(finding.shown),
        "effect": _numbers(comparison.effect),
        "win_rate": _numbers(comparison.win_rate),
        "p": comparison.p,
        "p_corrected": finding.p_corrected,
        "prompts": comparison.difference.n,
        "seeds": comparison.seeds,
    }


def markdown(name: str, verdicts: Iterable[Verdict]) -> str:
    """A table of all verdicts, and below it the parts of each."""
    verdicts = list(verdicts)
    rows = ["| | claim | verdict | deciding number, 95 % interval | |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        decisive = verdict.decisive
        shown = number_of(decisive)
        what = f"{shown} ({decisive.part.label})" if decisive and shown else ""
        claim = verdict.claim
        cells = [claim.id, claim.text, f"**{verdict.verdict}**", what, verdict.reason]
        rows.append(_row(cells))
    parts = [f"# Claims: run {name}", "\n".join(rows)]
    for verdict in verdicts:
        claim = verdict.claim
        parts += [f"## {claim.id}. {claim.text}: {verdict.verdict}", claim.test]
        if verdict.findings:
            lines = [
                _row([f.part.label, f.part.expects, f.outcome, number_of(f), details_of(f)])
                for f in verdict.findings
            ]
            head = "| part | expected | outcome | number, 95 % interval | |\n|---|---|---|---|---|"
            parts.append("\n".join([head, *lines]))
        else:
            parts.append(verdict.reason)
    return "\n\n".join(parts) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _interval(estimate: Estimate, digits: int, unit: str) -> str:
    ends = estimate.mean, estimate.low, estimate.high
    mean, low, high = (number(value, digits, signed=True) for value in ends)
    return f"{mean}{_UNITS.get(unit, '')} [{low}, {high}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _numbers(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
