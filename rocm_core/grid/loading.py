"""A configuration read and checked: its schema, its sections against one another, and its grid."""

import contextlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocm_core.configuration import (
    Config,
    Ensemble,
    PromptSettings,
    StudySettings,
    type_config,
)
from rocm_core.errors import UserError, warn
from rocm_core.grid.cells import Cell, make_grid
from rocm_core.grid.chains import chain_of
from rocm_core.grid.evaluation import contests, drawn_otherwise, training_sets
from rocm_core.grid.gradients import check_gradients
from rocm_core.grid.held_out import is_held_out
from rocm_core.grid.methods import POLICIES, parse_method
from rocm_core.grid.models import require_denoiser
from rocm_core.grid.used import gating, listed, rewarding
from rocm_core.plugins import did_you_mean, facts, module_of, require_known
from rocm_core.prompts import check_sources, prompt_count
from rocm_core.provenance import folder_digest, located
from rocm_core.reading import parse_yaml, read_yaml, show

# Prompt sources that a world offers, and its gold judge, which knows the truth of that world.
_SOURCES = {"shapes": ("shapes",), "paper": ()}
_GOLD = {"gold": "shapes"}
# Characters of --config: Snakemake quotes it twice in one argument of a cluster's command.
_LONGEST_ARGUMENTS = 30_000


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in a YAML file, top-level keys replaced by `overrides`.

    Raises `UserError`, one sentence with the file and the key or line.
    """
    values = read_yaml(path)
    try:
        return parse_config({**values, **(overrides or {})})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def given_config(
    values: Mapping[str, Any], files: Sequence[str], arguments: Sequence[str]
) -> Config:
    """The configuration that Snakemake has merged from `files` and from what follows --config.

    arguments: `key=value` as typed. Snakemake takes what is inside of a value for text; here a
    value is read as YAML, as it would be in a file. Raises `UserError`, one sentence with the key
    and where it stands: in a file or after --config.
    """
    for path in files:
        read_yaml(path)  # what Snakemake's own reader lets pass: a key given twice, 010 for 8
    if sum(map(len, arguments)) > _LONGEST_ARGUMENTS:
        raise UserError(
            f"--config is given more than {_LONGEST_ARGUMENTS:,} characters, which may not fit into"
            " a cluster's command line: put them into a file and name it with --configfile"
        )
    given: dict[str, Any] = {}
    try:
        for key, _, text in (argument.partition("=") for argument in arguments):
            given = _merged(given, {key: parse_yaml(text, key)})
    except UserError as error:
        raise UserError(f"--config: {error}") from None
    try:
        return parse_config(_merged(values, given))
    except UserError as error:
        named = re.match(r"\w*", str(error))
        place = "--config" if named and named[0] in given else ", ".join(files)
        raise UserError(str(error) if place in str(error) else f"{place}: {error}") from None


def _merged(old: Any, new: Any) -> Any:
    """`new` over `old`, mapping by mapping, as Snakemake merges configurations."""
    if not isinstance(new, Mapping):
        return new
    below = old if isinstance(old, Mapping) else {}
    return {**below, **{key: _merged(below.get(key), value) for key, value in new.items()}}


def parse_config(values: Mapping[str, Any]) -> Config:
    """The configuration in a mapping, such as Snakemake's; raises `UserError` naming the key."""
    config = type_config(_joined(values))
    _check(config)
    return config


def _joined(value: Any) -> Any:
    """A value whose texts have no pairs of surrogates, as YAML reads JSON's "\\ud83d\\udc69"."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(value, Mapping):
        return {_joined(key): _joined(below) for key, below in value.items()}
    return [*map(_joined, value)] if isinstance(value, list) else value


def _check(config: Config) -> None:
    """What the schema cannot say. Nothing is imported: names are resolved by their files."""
    methods = [parse_method(name, f"methods.{name}", config.policies) for name in config.methods]
    for name in config.policies:
        if name not in (*POLICIES, *(method.policy for _, method in methods)):
            hint = did_you_mean(name, POLICIES)
            raise UserError(f"policies.{name} is not a policy that a method names{hint}")
        require_denoiser(config.policies[name].model, f"policies.{name}.model")
        module_of("chains", chain_of(config, name), f"policies.{name}.chain")
    for name, weights in config.scorers.items():
        module_of("rewards", name, f"scorers.{name}")
        if name in _GOLD and _GOLD[name] != config.world:
            raise UserError(f"scorers.{name} is the gold judge of another world: remove it")
        if name in _GOLD and weights is not None:
            raise UserError(f"scorers.{name} is a gold judge without weights: set it to null")
    for key, known in (("metrics", "scorers"), ("published", "metrics")):
        for name in getattr(config, key):
            require_known(name, getattr(config, known), key, f"not among the {known}")
    for name in config.rewards:
        rewards = [*config.scorers, *config.ensembles]
        require_known(name, rewards, "rewards", "not among the scorers and ensembles")
        if name not in (*config.metrics, *config.ensembles):
            raise UserError(f"metrics: {name} trains, and what it gains is shown: add it")
    for name in _GOLD.keys() & {*config.rewards}:
        raise UserError(f"rewards: {name!r} is a gold judge and never trains: remove it")
    for name, ensemble in config.ensembles.items():
        _check_ensemble(config, name, ensemble)
    overlay = config.efficiency_overlay
    if overlay and not located(overlay).is_file():
        raise UserError(f"efficiency_overlay: {show(overlay)} does not exist: correct the path")
    if "snapshots" in config.prompts:
        raise UserError("prompts.snapshots: a folder of that name holds something else: rename it")
    cells = make_grid(config)
    _check_held_out(cells)
    check_gradients(config, cells)
    for model, lora in {(cell.settings.model, cell.settings.init_lora) for cell in cells}:
        base, digest = _base_of(located(lora)) if lora else (None, "")
        if base not in (None, model) and digest != folder_digest(model):
            warn(f"init_lora: {lora} was trained on {base}, not on {model}")
    if config.study:
        bases = [f"base-{policy}" for policy in config.policies]
        _check_study(config.study, config.prompts, cells, bases)
    check_sources(config.prompts, _SOURCES[config.world], training_sets(cells))
    if others := drawn_otherwise(config):
        steps = others[0].settings.inference_steps
        warn(
            f"{others[0].name}{f' and {len(others) - 1} more' if len(others) > 1 else ''} trains"
            f" with {steps} inference steps, with which no images are made: name them in"
            " generation.inference_steps"
        )


def _base_of(lora: Path) -> tuple[str | None, str]:
    """The folder and digest of the base that a LoRA's manifest says it was trained on."""
    for folder in lora.parents[:2]:  # a snapshot lies in a folder of the training's
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            model = manifest["settings"]["model"]
            return model, manifest["weights"][model]
    return None, ""


def _check_held_out(cells: Sequence[Cell]) -> None:
    """The scorers that gate or stop a training must be others than those that it learns from."""
    for cell in cells:
        settings = cell.settings
        for name, scorers in (("gate_by", gating(settings)), ("stop_by", listed(settings.stop_by))):
            for scorer in scorers:
                if not is_held_out(scorer, rewarding(settings)):
                    raise UserError(
                        f"methods.{cell.method}.{name}: {scorer} is what {cell.reward} trains on:"
                        " name a held-out scorer"
                    )


def _check_ensemble(config: Config, name: str, ensemble: Ensemble) -> None:
    """Its scorers must be metrics that can be standardised once; what is said of them, used."""
    key = f"ensembles.{name}"
    if name not in config.rewards:
        raise UserError(f"{key} is not among the rewards: add it there, or remove it")
    if name.replace("-", "_") in [scorer.replace("-", "_") for scorer in config.scorers]:
        raise UserError(f"{key} has the name of a scorer: give it another")
    for scorer in ensemble.of:
        require_known(scorer, config.metrics, f"{key}.of", "not among the metrics")
        if scorer in _GOLD:
            raise UserError(f"{key}.of: {scorer!r} is a gold judge and never trains: remove it")
        if facts("rewards", scorer, f"{key}.of")["DRIFTS"]:
            raise UserError(
                f"{key}.of: {scorer} changes during a training, so that no scores of the base"
                " standardise it: remove it"
            )
    if ensemble.combine != "sum" and set(ensemble.of.values()) != {1}:
        raise UserError(f"{key}.of: {ensemble.combine} knows no weights: set all to 1")
    if ensemble.combine != "mean_minus_std" and ensemble.deviations != 1:
        raise UserError(f"{key}.deviations has no effect on {ensemble.combine}: remove it")


def _check_study(
    study: StudySettings,
    prompts: Mapping[str, PromptSettings],
    cells: Sequence[Cell],
    bases: Sequence[str],
) -> None:
    """The models and the prompts of a study must be the configuration's."""
    best = contests(cells)
    models = [*(cell.name for cell in cells), *bases, *best]
    names = [*itertools.chain(*study.comparisons)]
    for name in names:
        require_known(name, models, "study.comparisons", "not a cell or base of the grid")
    for one, other in itertools.chain(*((pair, pair[::-1]) for pair in study.comparisons)):
        if other in [cell.name for cell in best.get(one, ())]:
            raise UserError(
                f"study.comparisons: {one} may turn out to be {other} itself: compare it with"
                " another method"
            )
    if study.prompts not in prompts or study.prompts == "train":
        hint = did_you_mean(study.prompts, [name for name in prompts if name != "train"])
        raise UserError(f"study.prompts: there are no images of {study.prompts!r}{hint}")
    most, which = prompt_count(prompts[study.prompts]), f"the {study.prompts} prompts"
    if most and study.prompts == "validation" and best.keys() & {*names}:
        most, which = most // 2, f"half of {which}, as the others choose the best model"
    if most is not None and study.pairs > most:
        raise UserError(f"study.pairs must be at most {most}, {which}, not {study.pairs}")
