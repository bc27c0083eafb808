"""How comparisons become verdicts. No verdict is written by hand.

A claim is tested by parts, each a comparison and what the claim expects of it: a part holds, fails,
ties or is open. The claim's rule makes of them confirmed, refuted, no difference or not decidable
with these data. A claim is not tested where the configuration has nothing to decide it by, such as
the control of a question.

Where one part is enough for a verdict, its p-value is corrected over all parts (Holm), since one of
many is below 0.05 by chance. Where a verdict needs all parts, none is corrected: all of them by
chance is less likely than one (the intersection-union test; Berger 1982, Technometrics 24:295).
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rocm_core.analysis import ALPHA, MARGIN, Comparison, Estimate, amount, holm
from rocm_core.claims._evidence import Evidence, NotConfigured, Undecidable, compared

CONFIRMED, REFUTED, NO_DIFFERENCE = "confirmed", "refuted", "no difference"
UNDECIDED, NOT_TESTED = "not decidable", "not tested"
VERDICTS = (CONFIRMED, REFUTED, NO_DIFFERENCE, UNDECIDED, NOT_TESTED)
HOLDS, FAILS, TIES, OPEN, MISSING = "holds", "fails", "ties", "open", "missing"
ONE_TRAINING = "one training per method"  # the scope of a verdict without a second seed

# What a claim can expect of a difference, and when it fails for sure:
MORE = "more"  # above 0; fails if below
NOT_LESS = "not less"  # above 0 or below it by less than the margin; else fails if below
LITTLE = "little"  # an effect below the margin; fails if above it
DIFFERENT = "different"  # above or below 0; cannot fail, but tie
TRUE = "true"  # no statistics: a check that holds or fails
# What a difference is counted in: that of the score, standard deviations, a share or a factor.
SCORE, EFFECT, SHARE, FACTOR = "score", "SD", "share", "factor"


@dataclass(frozen=True)
class Part:
    """One comparison that a claim rests on; `missing` says why there is none, and `configured` is
    false where that is for want of something in the configuration.

    `unit` is what the difference is shown in; a `FACTOR`'s is a logarithm. A check has no
    comparison, but `checked`: whether it holds.
    """

    label: str
    expects: str
    comparison: Comparison | None
    unit: str = SCORE
    missing: str | None = None
    checked: bool | None = None
    configured: bool = True


@dataclass(frozen=True)
class Finding:
    """A part with its corrected p-value and what came of it."""

    part: Part
    p_corrected: float | None
    outcome: str
    # What the corrected p-value is of, HOLDS or FAILS: of parts that expect no loss they differ.
    corrects: str = HOLDS

    @property
    def shown(self) -> Estimate | None:
        """The number to show, in the part's unit: a factor is no longer a logarithm."""
        comparison, unit = self.part.comparison, self.part.unit
        if comparison is None:
            return None
        shown = comparison.difference
        if unit == EFFECT and comparison.effect:
            return comparison.effect
        if unit == FACTOR:
            return Estimate(math.exp(shown.mean), math.exp(shown.low), math.exp(shown.high), 0)
        return shown


Parts = Callable[[Evidence], Iterable[Part]]
Call = tuple[Any, ...]  # a function that returns scores, and its arguments


@dataclass(frozen=True)
class Rule:
    """How findings make a verdict, with the one that decides it; and which outcomes a single part
    could owe to chance, so that their p-values are corrected. `alone`: the first part decides, and
    is not one of the many."""

    decide: Callable[[list[Finding]], tuple[str, Finding | None]]
    corrects: frozenset[str]
    alone: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim, its test in words, what it needs, its rule, and the function that finds its parts.

    `needs` says what a configuration that offers no part at all lacks.
    """

    id: str
    text: str
    test: str
    needs: str
    rule: Rule
    parts: Parts


@dataclass(frozen=True)
class Verdict:
    """What a run says about a claim: the finding that decided it, and all others."""

    claim: Claim
    verdict: str
    reason: str
    decisive: Finding | None
    findings: list[Finding]

    @property
    def scope(self) -> str:
        """`ONE_TRAINING` where a comparison has a single training seed, else nothing."""
        seeds = [f.part.comparison.seeds for f in self.findings if f.part.comparison]
        return ONE_TRAINING if 1 in seeds else ""


def claim(id: str, text: str, *, test: str, needs: str, rule: Rule) -> Callable[[Parts], Claim]:
    """Makes a claim of the function that finds its parts."""
    return lambda parts: Claim(id, text, test, needs, rule, parts)


def part(
    label: str,
    expects: str,
    comparison: Callable[..., Comparison],
    *arguments: Any,
    unit: str = SCORE,
) -> Part:
    """A part of comparison(*arguments), or the gap in its place."""
    try:
        found = comparison(*arguments)
        if not found.difference.has_interval:
            raise Undecidable("no interval, because all differences are equal")
        return Part(label, expects, found, unit)
    except Undecidable as gap:
        configured = not isinstance(gap, NotConfigured)
        return Part(label, expects, None, unit, str(gap), configured=configured)


def contrast(label: str, expects: str, treated: Call, control: Call, *, unit: str = SCORE) -> Part:
    """A part of the difference between two matrices of scores."""
    return part(label, expects, _contrast, treated, control, unit=unit)


def _contrast(*sides: Call) -> Comparison:
    return compared(*(scores(*arguments) for scores, *arguments in sides))


def decide(claim: Claim, evidence: Evidence) -> Verdict:
    """The verdict on a claim."""
    findings = _findings(list(claim.parts(evidence)), claim.rule)
    if not findings:
        return Verdict(claim, NOT_TESTED, f"needs {claim.needs}", None, [])
    verdict, decisive = claim.rule.decide(findings)
    if not any(finding.part.configured for finding in findings):
        verdict = NOT_TESTED
    return Verdict(claim, verdict, _reason(verdict, findings, decisive), decisive, findings)


def _every(findings: list[Finding]) -> tuple[str, Finding | None]:
    outcomes = {finding.outcome for finding in findings}
    if FAILS in outcomes:
        return REFUTED, _weakest([f for f in findings if f.outcome == FAILS])
    if TIES in outcomes and outcomes <= {HOLDS, TIES}:
        return NO_DIFFERENCE, _weakest([f for f in findings if f.outcome == TIES])
    return CONFIRMED if outcomes == {HOLDS} else UNDECIDED, _weakest(findings)


def _at_least(findings: list[Finding], count: int) -> tuple[str, Finding | None]:
    held = [f for f in findings if f.outcome == HOLDS]
    if len(held) >= count:
        return CONFIRMED, _weakest(sorted(held, key=_strength)[-count:])
    outcomes = [f.outcome for f in findings]
    lost = outcomes.count(FAILS) + outcomes.count(TIES)
    strongest = max((f for f in findings if f.shown), key=_strength, default=None)
    # A configuration with fewer parts than the claim speaks of decides nothing against it.
    if len(findings) < count or len(findings) - lost >= count:
        return UNDECIDED, strongest
    return REFUTED if FAILS in outcomes else NO_DIFFERENCE, strongest


def _first(findings: list[Finding]) -> tuple[str, Finding | None]:
    verdicts = {HOLDS: CONFIRMED, FAILS: REFUTED, TIES: NO_DIFFERENCE}
    return verdicts.get(findings[0].outcome, UNDECIDED), findings[0]


# Confirmed if all parts hold, refuted if one fails, no difference if all that do not hold tie; the
# weakest decides.
every = Rule(_every, frozenset({FAILS}))
# The first part decides; the others show what it is made of.
first = Rule(_first, frozenset({HOLDS, FAILS}), alone=True)


def at_least(count: int) -> Rule:
    """Confirmed if so many parts hold; if too many fail or tie for that, refuted or, where none
    fails, no difference."""
    corrects = {HOLDS} if count == 1 else {HOLDS, FAILS}
    return Rule(functools.partial(_at_least, count=count), frozenset(corrects))


def _findings(parts: list[Part], rule: Rule) -> list[Finding]:
    family = [n for n, p in enumerate(parts) if p.comparison and not (rule.alone and n == 0)]
    corrected: dict[str, dict[int, float]] = {}
    for outcome in rule.corrects:
        p_values = holm([_p_values(parts[n])[outcome] for n in family])
        corrected[outcome] = dict(zip(family, p_values, strict=True))
    corrects = HOLDS if HOLDS in corrected else FAILS
    findings = []
    for n, one in enumerate(parts):
        p = {o: corrected.get(o, {}).get(n, alone) for o, alone in _p_values(one).items()}
        findings.append(Finding(one, corrected[corrects].get(n), _outcome(one, p), corrects))
    return findings


def _p_values(part: Part) -> dict[str, float]:
    """The p-values by which a part would hold or fail, not corrected."""
    p = part.comparison.p if part.comparison else 1.0
    margin = part.comparison.p_margin if part.comparison and part.expects == NOT_LESS else None
    return {HOLDS: p if margin is None else margin, FAILS: p}


def _outcome(part: Part, p: dict[str, float]) -> str:
    """`p`: the p-value, corrected or not, by which the part would hold or fail."""
    comparison = part.comparison
    if part.checked is not None:
        return HOLDS if part.checked else FAILS
    if comparison is None:
        return MISSING
    effect, mean = comparison.effect, comparison.difference.mean
    over = effect.mean + MARGIN if effect and part.expects == NOT_LESS else mean
    above, below = over > 0 and p[HOLDS] < ALPHA, mean < 0 and p[FAILS] < ALPHA
    if part.expects == LITTLE:
        if effect is None:
            return OPEN
        return HOLDS if effect.high < MARGIN else FAILS if effect.low > MARGIN else OPEN
    if part.expects == DIFFERENT:
        return HOLDS if p[HOLDS] < ALPHA else TIES if comparison.is_tie else OPEN
    if part.expects == NOT_LESS:
        return HOLDS if above else FAILS if below else OPEN
    return HOLDS if above else FAILS if below else TIES if comparison.is_tie else OPEN


def _strength(finding: Finding) -> float:
    """How far a part speaks for its claim: the difference in units of its interval."""
    comparison = finding.part.comparison
    assert comparison is not None
    mean, half = comparison.difference.mean, comparison.difference.half_width
    size = mean / half if half > 0 else math.copysign(1e9, mean)
    if mean == 0:
        return 0.0
    return {LITTLE: -size, DIFFERENT: abs(size)}.get(finding.part.expects, size)


def _weakest(findings: list[Finding]) -> Finding | None:
    return min((f for f in findings if f.shown), key=_strength, default=None)


def _reason(verdict: str, findings: list[Finding], decisive: Finding | None) -> str:
    """Counts of the parts, and the margin of no difference or, where nothing is decided, why."""
    counts = Counter(finding.outcome for finding in findings)
    plural = {HOLDS: "hold", FAILS: "fail", TIES: "tie"}
    told = ", ".join(
        f"{counts[o]} {o if counts[o] == 1 else plural.get(o, o)}"
        for o in (HOLDS, FAILS, TIES, OPEN, MISSING)
        if counts[o]
    )
    many = f"{len(findings)} parts: {told}" if len(findings) > 1 else ""
    if verdict == NO_DIFFERENCE:
        return "; ".join(filter(None, [f"within ± {MARGIN} SD", many]))
    if verdict not in (UNDECIDED, NOT_TESTED):
        return many
    gaps = list(dict.fromkeys(f.part.missing for f in findings if f.part.missing))
    why = first_of(gaps) if gaps else "an interval leaves it open"
    if not gaps and decisive and decisive.outcome == OPEN and decisive.p_corrected is not None:
        if _outcome(decisive.part, _p_values(decisive.part)) != OPEN:
            family = sum(finding.p_corrected is not None for finding in findings)
            why = f"not significant after correction for {family} comparisons"
    return "; ".join(filter(None, [why, many]))


def first_of(gaps: list[str]) -> str:
    """The first gap, and how many more there are."""
    more = len(gaps) - 1
    return f"{gaps[0]}, and {amount([more], 'more gap')}" if more else gaps[0]
