"""Does gold rise in a pilot, and fall again? `python -m benchmarks.pilot`.

Prints, of each training of `config/pilot-shapes.yaml` as configured, the gold judge's score of the
base, what it has risen by at its peak and what is lost of that by the last step. The peak is where
the mean over one half of the prompts is highest, and counts on the other half, and the other way
round; else the highest of many snapshots would flatter itself. Intervals are over prompts.
"""

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.compare import RESULTS
from rocm_core.analysis import GOLD, Estimate, Results, mean_interval, only, paired_difference
from rocm_core.grid import Artefacts, load_config
from rocm_core.provenance import write_json


def at_peak(scores: pd.DataFrame) -> tuple[pd.Series, list[int]]:
    """Scores (prompts, steps) at the best step of the other half, and the two steps."""
    halves = scores.iloc[::2], scores.iloc[1::2]
    peaks = [int(half.mean().idxmax()) for half in halves]
    return pd.concat([half[peak] for half, peak in zip(halves, peaks[::-1], strict=True)]), peaks


def shown(found: Estimate) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configfile", default="config/pilot-shapes.yaml")
    parser.add_argument("--root", type=Path, help="its results, if they are elsewhere")
    parser.add_argument("--output", type=Path, default=RESULTS / "pilot.json")
    args = parser.parse_args()
    config = load_config(args.configfile, {"partial": True})
    results = Results(config, Artefacts(config, args.root).layout)
    records = []
    print("| trained on | method | seed | base | peak − base | at step | end − peak |")
    print("|---|---|---|---:|---:|---:|---:|")
    for reward in results.rewards:
        for method in results.methods(reward):
            gold = only(results.snapshots, reward=reward, method=method, metric=GOLD)
            for seed, own in gold.groupby("seed"):
                scores = own.pivot(index="prompt_id", columns="step", values="value")
                peak, steps = at_peak(scores)
                base, last = scores[0], scores[scores.columns.max()]
                rise, fall = paired_difference(peak, base), paired_difference(last, peak)
                records.append({"reward": reward, "method": method, "seed": int(seed)})
                for name, one in (("base", mean_interval(base)), ("rise", rise), ("fall", fall)):
                    records[-1][name] = [one.mean, one.low, one.high]
                records[-1]["steps"] = steps
                at = " and ".join(map(str, dict.fromkeys(sorted(steps))))
                line = f"{reward} | {results.label(method)} | {seed} | {base.mean():.3f}"
                print(f"| {line} | {shown(rise)} | {at} | {shown(fall)} |")
    write_json(args.output, {"prompts": config.snapshots.prompts, "trainings": records})


if __name__ == "__main__":
    main()
