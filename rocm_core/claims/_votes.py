"""What people said, from the study's aggregated votes."""

from statistics import NormalDist

from rocm_core.analysis import Comparison, Estimate
from rocm_core.claims._evidence import Evidence, Undecidable


def preference(e: Evidence, first: str, second: str, question: str) -> Comparison:
    """Share of votes for `first`, less ½; p is that of a normal distribution with the interval of
    the study, which draws raters and pairs."""
    if e.results.outcomes is None:
        raise Undecidable("nobody has voted, or figure3 has yet to count the votes")
    outcome = e.results.votes(question).get((first, second))
    if outcome is None:
        raise Undecidable(f"no votes on {first} against {second}")
    low, high = (outcome[f"win_rate_{end}"] for end in ("low", "high"))
    if low is None:
        raise Undecidable("no interval, because there is one vote or all are alike")
    share = Estimate(outcome["win_rate"] - 0.5, low - 0.5, high - 0.5, int(outcome["pairs"]))
    normal = NormalDist()
    deviation = share.half_width / normal.inv_cdf(0.975)
    p = 2 * normal.cdf(-abs(share.mean) / deviation)
    return Comparison(share, None, None, p, 1)
