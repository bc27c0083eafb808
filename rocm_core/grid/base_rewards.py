"""What the base scores on the prompts and the noise of trainings: which trainings share it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rocm_core.configuration import Config, ModelSettings, TrainingSettings, settings_class
from rocm_core.grid.cells import Cell
from rocm_core.grid.used import standardised
from rocm_core.plugins import facts
from rocm_core.provenance import digest_of

# What decides which images the base makes, beside the model, and what scores them.
_RUN = (
    *("prompts", "seed", "iterations", "batch_size", "accumulation_steps"),
    *("images_per_prompt", "precision"),
)
_REWARD = ("reward", "scorer", "ensemble", "scorers")


@dataclass(frozen=True)
class BaseRun:
    """Images that the base makes of the prompts and the noise of one training, or of several.

    settings: {reward: those of a training that changes nothing}, for every reward that one of them
    is trained on. pairs: whether two images each start from the same noise. scorers: those that are
    standardised.
    """

    key: str
    policy: str
    prompts: str
    pairs: bool
    settings: Mapping[str, TrainingSettings]
    scorers: tuple[tuple[str, ...], ...]

    @property
    def weights(self) -> list[str]:
        """The local weights that are loaded."""
        return list(dict.fromkeys(w for own in self.settings.values() for w in own.weights))


def base_runs(config: Config, cells: Iterable[Cell]) -> dict[str, BaseRun]:
    """{cell: the run of the base that it is compared with}, none of trials; {} unless they are
    asked for."""
    found: dict[str, BaseRun] = {}
    of_cells: dict[str, str] = {}
    for cell in cells if config.base_rewards else ():
        if not cell.trial:
            run = _run(cell.settings, max(1, config.resources.gpus))
            other = found.get(run.key, run)
            scorers = tuple(dict.fromkeys(filter(None, other.scorers + run.scorers)))
            both = {**other.settings, **run.settings}
            found[run.key] = replace(run, settings=both, scorers=scorers)
            of_cells[cell.name] = run.key
    # Another reward makes another file: nobody takes one that lacks it.
    keys = {key: digest_of({key: " ".join(run.settings)})[:12] for key, run in found.items()}
    return {name: replace(found[key], key=keys[key]) for name, key in of_cells.items()}


def starts_in_pairs(settings: TrainingSettings) -> bool:
    """Whether images 2i and 2i+1 of a batch start from the same noise."""
    paired = facts("algorithms", settings.algorithm)["PAIRED"]
    return paired and getattr(settings, "pair_start", "shared") == "shared"


def _run(settings: TrainingSettings, processes: int) -> BaseRun:
    every = settings.to_dict()
    model = {name: every[name] for name in ModelSettings.model_fields if name in every}
    run = model | {name: every[name] for name in _RUN}
    run["accumulation_steps"] *= processes  # an iteration is the same, however it is dealt
    pairs = starts_in_pairs(settings)
    key = digest_of({"run": json.dumps(run, sort_keys=True), "pairs": str(pairs)})
    unchanged = {"algorithm": "direct", "divergence": "none", "beta": 0.0}
    unchanged |= {name: every[name] for name in _REWARD if name in every}
    own = settings_class("direct", "base_rewards").from_dict(run | unchanged)
    return BaseRun(
        key,
        settings.policy,
        settings.prompts,
        pairs,
        {settings.reward: own},
        (standardised(settings),),
    )
