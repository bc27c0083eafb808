"""How scores move over the snapshots of a training, paired with the base on the same prompts."""

import pandas as pd

from rocm_core.analysis import Results, amount, mean_interval, only
from rocm_core.errors import UserError

COLUMNS = ["reward", "method", "metric", "step", "mean", "change", "low", "high", "n", "seeds"]
PAIRED = "95 % interval of the change since step 0, paired over prompts, drawn around the mean"


def trajectories(results: Results, metrics: dict[str, list[str]]) -> pd.DataFrame:
    """Means over prompts of some metrics (by training reward) at every snapshot.

    Columns: reward, method, metric, step, mean, change (since step 0, paired over prompts) with
    its 95 % interval low..high, n (prompts), seeds (averaged within a prompt). Swept methods are
    left out. Step 0 is the base.
    """
    rows = []
    for reward in results.rewards:
        for method in results.methods(reward):
            own = only(results.snapshots, reward=reward, method=method)
            for metric in metrics[reward]:
                scores = only(own, metric=metric)
                may_lack = scores.empty and results.config.partial
                expected = results.has_snapshots(reward, method) and not may_lack
                if expected and 0 not in set(scores["step"]):
                    raise UserError(
                        f"the snapshots of {reward}/{method} in {results.root} have no {metric} at"
                        " step 0: score them again"
                    )
                table = scores.pivot_table("value", "prompt_id", "step", aggfunc="mean").dropna()
                for step in table.columns:
                    change = mean_interval(table[step] - table[0])
                    row = {"reward": reward, "method": method, "metric": metric, "step": int(step)}
                    row |= vars(change) | {"change": change.mean, "mean": table[step].mean()}
                    rows.append(row | {"seeds": scores["seed"].nunique()})
    return pd.DataFrame(rows, columns=COLUMNS)


def counts(data: pd.DataFrame) -> str:
    """The n and seeds of a caption: "64 validation prompts, 1 training seed"."""
    prompts, seeds = amount(data["n"], "validation prompt"), amount(data["seeds"], "training seed")
    return f"{prompts}, {seeds}"
