"""The configuration of a grid, typed: what a valid one holds, with every default filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.configuration.schema import validate, with_defaults
from rocm_core.configuration.settings import GenerationSettings as GenerationSettings
from rocm_core.configuration.settings import PromptSettings, Settings
from rocm_core.configuration.settings import TrainingSettings as TrainingSettings
from rocm_core.configuration.study import StudySettings


@dataclass(frozen=True)
class PolicySettings(Settings):
    """A base model: local folder, steps of its chain, guidance scale, a LoRA merged into it.

    chain: the name of the chain's module; None: the one that goes with the policy's name.
    """

    model: str
    steps: int
    guidance_scale: float
    lora: str | None = None
    chain: str | None = None


@dataclass(frozen=True)
class Sweep(Settings):
    """Cells in which `setting` takes each of `values`, combined with those of each setting in
    `cross`; rewards None: all."""

    methods: tuple[str, ...]
    setting: str
    values: tuple[Any, ...]
    rewards: tuple[str, ...] | None = None
    cross: Any = None


@dataclass(frozen=True)
class Generation(Settings):
    """How scored images are made; `inference_steps` None, alone or in the list: the policy's."""

    seed: int
    batch_size: int
    inference_steps: int | tuple[int | None, ...] | None

    @property
    def steps(self) -> tuple[int | None, ...]:
        """`inference_steps` as a list."""
        given = self.inference_steps
        return given if isinstance(given, tuple) else (given,)


@dataclass(frozen=True)
class Monitor(Settings):
    """The first `prompts` validation prompts judge each snapshot; 0: none."""

    prompts: int


@dataclass(frozen=True)
class Resources(Settings):
    """What a job asks of the machine; no result depends on it."""

    threads: int
    gpus: int
    memory_gib: float
    runtime_minutes: int


@dataclass(frozen=True)
class Weights(Settings):
    """Where weights are fetched from: an endpoint of the hub, or a folder laid out as weights/."""

    endpoint: str | None
    mirror: str | None


@dataclass(frozen=True, eq=False)
class Config:
    """A checked configuration with every default filled in; the schema documents the keys.

    `training` holds every training setting but those without a default that was not given (`beta`).
    """

    name: str
    world: str
    policies: Mapping[str, PolicySettings]
    scorers: Mapping[str, str | None]
    prompts: Mapping[str, PromptSettings]
    rewards: tuple[str, ...]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    training: Mapping[str, Any]
    cells: Mapping[str, Mapping[str, Any] | None]
    sweeps: tuple[Sweep, ...]
    generation: Generation
    monitor: Monitor
    metrics: tuple[str, ...]
    efficiency_overlay: str | None
    study: StudySettings | None
    judges: tuple[str, ...]
    resources: Resources
    weights: Weights
    partial: bool

    @property
    def root(self) -> Path:
        """Where the results go."""
        return Path("results") / self.name

    def scorer_paths(self) -> dict[str, str | None]:
        """{metric: local weights} of the scorers that measure images."""
        return {metric: self.scorers[metric] for metric in self.metrics}


def type_config(values: Mapping[str, Any]) -> Config:
    """A mapping as a `Config`; raises `UserError` naming the key where the schema forbids it.

    What the sections say of one another is checked by `rocm_core.grid`.
    """
    values = dict(values)
    if values.get("partial") in ("true", "false"):  # as `--config partial=true` hands it over
        values["partial"] = values["partial"] == "true"
    absent: list[Any] = []
    for key in ("methods", "cells"):
        if isinstance(given := values.get(key), dict):
            absent = [name for name, value in given.items() if value is None]
            values[key] = {k: {} if v is None else v for k, v in given.items()}
    validate(values)
    filled = with_defaults(values)
    filled["cells"] |= dict.fromkeys(absent if "cells" in values else ())
    prompts = {name: PromptSettings.from_dict(v) for name, v in filled["prompts"].items()}
    monitor, most = Monitor.from_dict(filled["monitor"]), prompts["validation"].most
    typed = {
        "policies": {k: PolicySettings.from_dict(v) for k, v in filled["policies"].items()},
        "prompts": prompts,
        "rewards": tuple(filled["rewards"]),
        "seeds": tuple(map(int, filled["seeds"])),
        "sweeps": tuple(map(Sweep.from_dict, filled["sweeps"])),
        "generation": Generation.from_dict(filled["generation"]),
        "monitor": monitor if most is None else Monitor(min(monitor.prompts, most)),
        "metrics": tuple(filled["metrics"] or filled["scorers"]),
        "study": StudySettings.from_dict(filled["study"]) if filled["study"] else None,
        "judges": tuple(filled["judges"]),
        "resources": Resources.from_dict(filled["resources"]),
        "weights": Weights.from_dict(filled["weights"]),
    }
    return Config(**(filled | typed))
