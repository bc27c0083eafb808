"""Whether RLCM and DDPO learn at the paper's settings: `python -m benchmarks.baselines`.

Trains both on HPSv2 in the embedded world under the settings of config/paper.yaml, and compares
the validation prompts' scores with the base model's as the reward queries grow. What is in --folder
is kept, so that a run can be stopped and started again, or go on to more queries.
Writes benchmarks/results/baselines-cpu.json.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.advantages import paper_settings
from benchmarks.compare import RESULTS, ROOT, describe
from benchmarks.regularisation import CONFIG, Trainings
from rocm_core.analysis import mean_interval, paired_difference
from rocm_core.grid import load_config
from rocm_core.provenance import CSV_OPTIONS, write_json

REWARD = "hpsv2"


def scores_of(path: Path) -> pd.Series:
    """The training reward, by prompt."""
    scores = pd.read_csv(path, **CSV_OPTIONS)
    return scores[scores["metric"] == REWARD].set_index("prompt_id")["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["rlcm", "ddpo"])
    parser.add_argument(
        "--queries", type=int, nargs="+", default=[400, 1600, 4000, 10000], help="to be looked at"
    )
    parser.add_argument("--learning-rate", type=float, default=6e-5)
    parser.add_argument("--folder", type=Path, default=ROOT / "results/regularisation/baselines")
    parser.add_argument("--output", type=Path, default=RESULTS / "baselines-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    trainings = Trainings(load_config(CONFIG), args.folder)
    record: dict[str, Any] = describe("cpu") | {"learning_rate": args.learning_rate}
    for method in args.methods:
        settings = paper_settings(method, learning_rate=args.learning_rate)
        name = f"{method}-{args.learning_rate:g}"
        base = scores_of(trainings.scores(f"base-{settings.policy}", settings, 0))
        level = mean_interval(base)
        record[method] = {"base": [level.mean, level.low, level.high], "queries": {}}
        for queries in args.queries:
            step = queries // (settings.batch_size * settings.accumulation_steps)
            gain = paired_difference(scores_of(trainings.scores(name, settings, step)), base)
            record[method]["queries"][queries] = [gain.mean, gain.low, gain.high]
            print(method, queries, gain, level, flush=True)
            write_json(args.output, record)


if __name__ == "__main__":
    main()
