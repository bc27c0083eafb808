"""The ledger in words and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocm_core.analysis import ALPHA, MARGIN, Estimate, amount, decimals, environment, number
from rocm_core.claims._papers import OWN, STATED
from rocm_core.claims._verdict import (
    EFFECT,
    FACTOR,
    FAILS,
    HOLDS,
    NOT_LESS,
    NOT_TESTED,
    ONE_TRAINING,
    SHARE,
    UNDECIDED,
    Finding,
    Verdict,
)

_SD = " SD"
_TOLD = 3  # claims that are decided, at most, of which a banner has the texts


def number_of(finding: Finding | None) -> str:
    """A difference in its unit with its interval: "+0.12 SD [+0.03, +0.20]"; empty without one."""
    shown = finding.shown if finding else None
    if finding is None or shown is None:
        return ""
    if finding.part.unit == FACTOR:
        digits = decimals(shown.half_width)
        return f"× {number(shown.mean, digits)} {shown.bounds(digits, signed=False)}"
    return shown.change(unit=_SD if finding.part.unit == EFFECT else "")


def details_of(finding: Finding) -> str:
    """What else there is to say: effect, wins, p, and over what."""
    comparison = finding.part.comparison
    if comparison is None:
        return finding.part.missing or ""
    told = []
    if comparison.effect and finding.part.unit not in (EFFECT, SHARE):
        told.append(comparison.effect.change(2, _SD))
    if comparison.win_rate and finding.part.unit != SHARE:
        rate = comparison.win_rate
        bounds = f" [{rate.low:.0%}, {rate.high:.0%}]" if rate.has_interval else ""
        told.append(f"wins {rate.mean:.0%}{bounds}")
    named = {FAILS: ("p", comparison.p)}
    if finding.part.expects == NOT_LESS and comparison.p_margin is not None:
        named[HOLDS] = f"p of a loss of {MARGIN} SD", comparison.p_margin
    corrects = finding.corrects if finding.corrects in named else FAILS
    for kind, (name, p) in named.items():
        told.append(f"{name} {_p(p)}")
        if kind == corrects and finding.p_corrected not in (None, p):
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
        "stated": asdict(STATED.get(claim.id, OWN)),
        "verdict": verdict.verdict,
        "scope": verdict.scope,
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
        "p_margin": comparison.p_margin,
        "p_corrected": finding.p_corrected,
        "prompts": comparison.difference.n,
        "seeds": comparison.seeds,
    }


def limits(verdicts: Sequence[Verdict]) -> list[str]:
    """What a reader must know before the verdicts, in sentences: what this run decides and what it
    cannot; none where every question has its control and several seeds."""
    told = []
    if any(verdict.scope for verdict in verdicts):
        told.append(
            f"A verdict marked “{ONE_TRAINING}” rests on single trainings: another seed may decide"
            " otherwise."
        )
    untested = [one.claim.id for one in verdicts if one.verdict == NOT_TESTED]
    if untested:
        told.append(f"Not tested: {', '.join(untested)}; the ledger says what each needs.")
    decided = [one.claim for one in verdicts if one.verdict not in (UNDECIDED, NOT_TESTED)]
    texts = len(decided) <= _TOLD
    named = "; ".join(f"{one.id} ({one.text})" if texts else one.id for one in decided)
    return [f"Decided here: {named or 'nothing'}.", *told] if told else []


def markdown(name: str, verdicts: Sequence[Verdict]) -> str:
    """A table of all verdicts, and below it the parts of each."""
    stated = {verdict.claim.id: STATED.get(verdict.claim.id, OWN) for verdict in verdicts}
    templates = environment(Path(__file__).parent, number=number_of, details=details_of)
    return templates.get_template("claims.md.j2").render(
        name=name, verdicts=verdicts, stated=stated, limits=limits(verdicts)
    )


def _p(value: float) -> str:
    text = "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
    return "< 0.05" if text == "0.05" and value < ALPHA else text


def _numbers(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    ends = (estimate.low, estimate.high) if estimate.has_interval else (None, None)
    return {"mean": estimate.mean, "low": ends[0], "high": ends[1]}
