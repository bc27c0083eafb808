"""Which effects a study can tell, from the spreads of a pilot: `python -m benchmarks.power`.

Between trainings of a pilot, of the same reward and at the same learning rate, the differences of
scores vary over prompts and over training seeds. From both follows how wide the 95 % interval of a
study with --seeds seeds and --prompts prompts is, as rocm_core/analysis/comparison.py makes it, and
the effect that it tells from 0 with a power of 0.8. Spreads of seeds are pooled over all pairs of
trainings, since a pilot has few seeds. Writes benchmarks/results/power.json and prints a table.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np

from benchmarks.compare import RESULTS
from rocm_core.analysis import GOLD, Results, average_deviation, seed_curves, settled
from rocm_core.analysis.efficiency import reach
from rocm_core.claims._evidence import Evidence, Undecidable, aligned
from rocm_core.grid import Artefacts, load_config
from rocm_core.provenance import write_json

NORMAL = NormalDist().inv_cdf
# What is compared, and the claims that rest on it (docs/claims.md).
QUANTITIES = {
    GOLD: "7, 10, Q1a, Q1b, Q2, Q3b, Q4",
    "held_out": "1, 2, 3, 6, 9, 13",
    "own": "7, 8, R2, R3, R4, Q3a, Q5",
}


def differences(e: Evidence, quantity: str) -> Iterator[np.ndarray]:
    """Of every two trainings of a reward at one learning rate, and of each against its base: the
    last snapshots' differences (seeds, prompts), in standard deviations over prompts."""
    for reward in e.rewards:
        metric = reward if quantity == "own" else quantity
        rates: dict[float, list] = {}
        for method in e.results.methods(reward, sweeps=True):
            cell = e.results.sources(reward, method)[0].cell
            assert cell
            try:
                steps = e.steps(reward, method)
                last, base = (e.scores(reward, (method, n), metric) for n in (steps[-1], 0))
            except Undecidable:  # not finished yet
                continue
            rates.setdefault(cell.settings.learning_rate, [base.iloc[:1]]).append(last)
        for of_rate in rates.values():
            for one, other in combinations(of_rate, 2):
                after, before = aligned(other, one)
                unit = average_deviation(after.mean().to_numpy(), before.mean().to_numpy())
                yield (after - before.to_numpy()).to_numpy() / unit


def spreads(found: list[np.ndarray]) -> tuple[float, float]:
    """Standard deviations between seeds and between prompts, pooled."""
    prompts = fmean(d.mean(0).var(ddof=1) for d in found)
    seeds = fmean(d.mean(1).var(ddof=1) for d in found)
    return seeds**0.5, prompts**0.5


def half_width(between_seeds: float, between_prompts: float, seeds: int, prompts: int) -> float:
    """Of the 95 % interval: Student's t over seeds, a normal deviation over prompts."""
    student = np.quantile(np.random.default_rng(0).standard_t(seeds - 1, 1_000_000), 0.975)
    over_prompts = NORMAL(0.975) * between_prompts / prompts**0.5
    return float(np.hypot(student * between_seeds / seeds**0.5, over_prompts))


def told(half: float) -> float:
    """The effect whose interval excludes 0 with a power of 0.8."""
    return float(half * (1 + NORMAL(0.8) / NORMAL(0.975)))


def cost_ratios(results: Results) -> Iterator[np.ndarray]:
    """Of every two trainings of a reward: the logarithm of one's reward queries by the other's
    until the highest training reward that every seed of both comes to, by seed."""
    for reward in results.rewards:
        curves = seed_curves(results, reward, results.methods(reward, sweeps=True))
        for one, other in combinations(curves.values(), 2):
            if min(len(one), len(other)) < 2:
                continue
            goal = min(map(settled, [*one, *other]))
            costs = [[reach(c, goal)["reward_queries"] for c in seeds] for seeds in (one, other)]
            yield np.log(costs[0]) - np.log(costs[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configfile", default="config/pilot-shapes.yaml")
    parser.add_argument("--root", type=Path, help="its results, if they are elsewhere")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS / "power.json")
    args = parser.parse_args()
    config = load_config(args.configfile, {"partial": True})
    results = Results(config, Artefacts(config, args.root).layout)
    evidence = Evidence(results)
    rows = {}
    for quantity, claims in QUANTITIES.items():
        found = list(differences(evidence, quantity))
        seeds, prompts = spreads(found)
        half = half_width(seeds, prompts, args.seeds, args.prompts)
        rows[quantity] = {"claims": claims, "unit": "SD", "pairs": len(found)}
        rows[quantity] |= {"seeds": seeds, "prompts": prompts, "half": half, "told": told(half)}
    ratios = list(cost_ratios(results))
    between = fmean(ratio.var(ddof=1) for ratio in ratios) ** 0.5
    half = half_width(between, 0.0, args.seeds, 1)
    rows["cost"] = {"claims": "4, 5, R1", "unit": "factor", "pairs": len(ratios)}
    rows["cost"] |= {"seeds": between, "half": np.exp(half), "told": np.exp(told(half))}
    write_json(args.output, {"seeds": args.seeds, "prompts": args.prompts, "quantities": rows})
    print("| | claims | between seeds | between prompts | half of an interval | told |")
    print("|---|---|---:|---:|---:|---:|")
    for name, row in rows.items():
        numbers = (row.get(key) for key in ("seeds", "prompts", "half", "told"))
        shown = " | ".join("–" if n is None else f"{n:.3f}" for n in numbers)
        print(f"| {name}, {row['unit']}, {row['pairs']} pairs | {row['claims']} | {shown} |")


if __name__ == "__main__":
    main()
