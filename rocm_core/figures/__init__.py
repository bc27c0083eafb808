"""The figures: each name is a module here with `make(results) -> Drawing`.

This file stays free of imports from its siblings, so that editing one figure leaves the code
fingerprints of the others alone.
"""

from rocm_core.configuration import Config
from rocm_core.grid import beta_tries, evaluation_sets, inference_steps, make_grid

_NEEDS: dict[str, tuple[str, ...]] = {
    "figure1": ("regularised",),
    "figure2": (),
    "figure3": ("votes",),
    "figure4": ("betas",),
    "figure5": (),
    "figure6": ("snapshots of rocm",),
    "divergences": ("regularised",),
    "samples": ("rewards",),
    "training": ("snapshots",),
    "gold_vs_reward": ("snapshots", "gold"),
    "gold_vs_kl": ("snapshots", "gold"),
    "squared_distance": ("divergence",),
    "efficiency": ("algorithms",),
    "inference_time": ("steps",),
    "horizon": ("horizons",),
    "generalisation": ("sets",),
}
FIGURES = tuple(_NEEDS)


def figures(config: Config) -> list[str]:
    """The figures that this configuration has the data for, in the order of the report; figure 3
    once there are votes."""
    cells = make_grid(config)
    settings = [cell.settings for cell in cells]
    rocm = [s for s in settings if s.algorithm == "direct"]
    monitored = config.monitor.prompts > 0
    has = {
        "regularised": any(s.divergence != "none" for s in rocm),
        "votes": config.study is not None and (config.root / "study" / "votes.jsonl").exists(),
        "betas": bool(beta_tries(cells)),
        "rewards": len({cell.reward for cell in cells}) > 1,
        "snapshots": monitored and any(s.snapshot_every for s in settings),
        "snapshots of rocm": monitored and any(s.snapshot_every for s in rocm),
        "gold": "gold" in config.metrics,
        "divergence": any(s.divergence != "none" for s in settings),
        "algorithms": len({(s.algorithm, s.policy) for s in settings}) > 1,
        "steps": len(set(inference_steps(config))) > 1,
        "horizons": any("--inference_steps-" in cell.variant for cell in cells),
        "sets": len(evaluation_sets(config, cells)) > 1,
    }
    return [name for name, needs in _NEEDS.items() if all(has[need] for need in needs)]
