"""The configuration of a grid: read, checked against the schema and itself, and typed.

`python -m rocm_core.config --document` prints the reference page of all keys.
"""

import argparse
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rocm_core.errors import UserError, run
from rocm_core.grid import make_grid, training_sets
from rocm_core.names import find_module
from rocm_core.prompt_sets import check_sources
from rocm_core.schema import did_you_mean, document, show, validate, with_defaults
from rocm_core.settings import GenerationSettings as GenerationSettings
from rocm_core.settings import PromptSettings, Settings
from rocm_core.settings import TrainingSettings as TrainingSettings
from rocm_core.study.settings import StudySettings

# Prompt sources that a world offers, and its judges: scorers that know the truth of that world.
_SOURCES = {"shapes": ("shapes",), "paper": ()}
_JUDGES = {"gold": "shapes"}


@dataclass(frozen=True)
class PolicySettings(Settings):
    """A base model: local folder, steps of its chain, guidance scale, a LoRA merged into it."""

    model: str
    steps: int
    guidance_scale: float
    lora: str | None = None


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


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in a YAML file, top-level keys replaced by `overrides`.

    Raises `UserError`, one sentence with the file and the key or line.
    """
    values = read_yaml(path)
    try:
        return parse_config({**values, **(overrides or {})})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_config(values: Mapping[str, Any]) -> Config:
    """The configuration in a mapping, such as Snakemake's; raises `UserError` naming the key."""
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
    config = Config(**(filled | typed))
    _check(config)
    return config


def _check(config: Config) -> None:
    """What the schema cannot say. Nothing is imported: names are resolved by their files."""
    for name in config.policies:
        find_module("policies", name, f"policies.{name}")
    for name, weights in config.scorers.items():
        find_module("rewards", name, f"scorers.{name}")
        if name in _JUDGES and _JUDGES[name] != config.world:
            raise UserError(f"scorers.{name} is the judge of another world: remove it")
        if name in _JUDGES and weights is not None:
            raise UserError(f"scorers.{name} is a judge without weights: set it to null")
    for name in config.judges:
        if name not in config.metrics:
            raise UserError(f"judges: {name!r} is not among the metrics: add it or remove it here")
    for key, names in (("rewards", config.rewards), ("metrics", config.metrics)):
        for name in names:
            if name not in config.scorers:
                hint = did_you_mean(name, config.scorers)
                raise UserError(f"{key}: {name!r} is not among the scorers{hint}")
            if name in _JUDGES and key == "rewards":
                raise UserError(f"rewards: {name!r} is a judge and never trains: remove it")
    overlay = config.efficiency_overlay
    if overlay and not Path(overlay).is_file():
        raise UserError(f"efficiency_overlay: {show(overlay)} does not exist: correct the path")
    if "snapshots" in config.prompts:
        raise UserError("prompts.snapshots: a folder of that name holds something else: rename it")
    cells = make_grid(config)
    if config.study:
        models = {cell.name for cell in cells} | {f"base-{policy}" for policy in config.policies}
        _check_study(config.study, config.prompts, models)
    check_sources(config.prompts, _SOURCES[config.world], training_sets(cells))


def _check_study(
    study: StudySettings, prompts: Mapping[str, PromptSettings], models: Collection[str]
) -> None:
    """The models and the prompts of a study must be the configuration's."""
    for name in (name for comparison in study.comparisons for name in comparison):
        if name not in models:
            hint = did_you_mean(name, sorted(models))
            raise UserError(f"study.comparisons: {name!r} is no cell or base of the grid{hint}")
    if study.prompts not in prompts or study.prompts == "train":
        hint = did_you_mean(study.prompts, [name for name in prompts if name != "train"])
        raise UserError(f"study.prompts: there are no images of {study.prompts!r}{hint}")
    most = prompts[study.prompts].most
    if most is not None and study.pairs > most:
        raise UserError(
            f"study.pairs must be at most {most}, the {study.prompts} prompts, not {study.pairs}"
        )


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise UserError(
                        f"line {line}: the key {show(key_node.value)} is given twice: keep one"
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `UserError` with file and line for anything else."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {show(values)}")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Check a configuration, or document all keys.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--configfile", help="check this file")
    what.add_argument("--document", action="store_true", help="print docs/configuration.md")
    arguments = parser.parse_args()
    if arguments.document:
        print(document(), end="")
    else:
        config = load_config(arguments.configfile)
        print(f"{arguments.configfile} is valid: {len(make_grid(config))} cells")


if __name__ == "__main__":
    run(main)
