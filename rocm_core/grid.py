"""The grid: one plain table of cells, each a training run with settings of its own.

`python -m rocm_core.grid --configfile config/demo.yaml` prints it.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocm_core.errors import UserError, run
from rocm_core.fingerprint import code_fingerprint
from rocm_core.names import (
    Method,
    declared,
    find_module,
    is_differentiable,
    modules,
    parse_method,
)
from rocm_core.provenance import digest_of
from rocm_core.schema import did_you_mean, load_schema, validate
from rocm_core.settings import GenerationSettings, PromptSettings, TrainingSettings

if TYPE_CHECKING:
    from rocm_core.config import Config


@dataclass(frozen=True)
class Cell:
    """One training run. `method` is in its canonical spelling, a sweep's value included."""

    reward: str
    method: str
    seed: int
    settings: TrainingSettings

    @property
    def name(self) -> str:
        """Folder of the cell below `cells/` and `samples/`: hpsv2/rocm-kl/seed-0."""
        return f"{self.reward}/{self.method}/seed-{self.seed}"

    @property
    def monitored_on(self) -> str:
        """The prompt set that judges its snapshots: that of its training where a sweep chose it,
        as the animals of figure 6, else the validation prompts."""
        return self.settings.prompts if "--prompts-" in self.method else "validation"


@functools.cache
def make_grid(config: "Config") -> tuple[Cell, ...]:
    """All cells of a configuration, in its order, none twice: where an alias or a sweep repeats the
    settings of a cell, the first name stands. Raises `UserError` naming the key at fault."""
    cells: dict[TrainingSettings, Cell] = {}
    names: dict[str, str] = {}
    methods = {method: parse_method(method, f"methods.{method}") for method in config.methods}
    plan = list(_plan(config))
    known = [f"{reward}/{method}" for reward in config.rewards for method in config.methods]
    for place, given in config.cells.items():
        if place not in (*known, *config.rewards):
            raise UserError(f"cells.{place} is not a cell of the grid{did_you_mean(place, known)}")
        if given is None and place in config.rewards:
            raise UserError(f"cells.{place} is null: remove {place} from rewards instead")
    if not plan:
        raise UserError("cells is null for every cell of the grid: leave one")
    for reward, method, key, layers, suffix in plan:
        canonical, meaning = methods[method]
        for seed in config.seeds:
            settings = _settings(config, reward, meaning, seed, layers, key)
            cell = Cell(reward, canonical + suffix, seed, settings)
            if settings in cells:
                continue
            if cell.name in names:
                raise UserError(
                    f"{key} and {names[cell.name]} are the same cell, {cell.name}, with different"
                    " settings: keep one of them"
                )
            names[cell.name] = key
            cells[settings] = cell
    return tuple(cells.values())


def _plan(
    config: "Config",
) -> Iterator[tuple[str, str, str, list[tuple[str, Mapping[str, Any]]], str]]:
    """(reward, method, key for errors, layers of settings under their keys, swept suffix)."""

    def layers(reward: str, method: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            ("training", config.training),
            (f"methods.{method}", config.methods[method]),
            (f"cells.{reward}", config.cells.get(reward) or {}),
            (f"cells.{reward}/{method}", config.cells.get(f"{reward}/{method}") or {}),
        ]

    def is_wanted(reward: str, method: str) -> bool:
        return config.cells.get(f"{reward}/{method}", {}) is not None

    for reward in config.rewards:
        for method in filter(functools.partial(is_wanted, reward), config.methods):
            yield reward, method, f"methods.{method}", layers(reward, method), ""
    for index, sweep in enumerate(config.sweeps):
        key = f"sweeps[{index}]"
        properties = load_schema()["$defs"]["training"]["properties"]
        swept = {sweep.setting: sweep.values} | (sweep.cross or {})
        for setting, values in swept.items():
            place = "setting" if setting == sweep.setting else "cross"
            _known(setting, properties, f"{key}.{place}")
            for value in values:
                where = ("values",) if place == "setting" else ("cross", setting)
                validate(value, properties[setting], ("sweeps", index, *where))
        for reward in sweep.rewards or config.rewards:
            _known(reward, config.rewards, f"{key}.rewards")
            for method in sweep.methods:
                _known(method, config.methods, f"{key}.methods")
                if not is_wanted(reward, method):
                    continue
                for values in itertools.product(*swept.values()):
                    chosen = dict(zip(swept, values, strict=True))
                    suffix = "".join(f"--{name}-{_spell(value)}" for name, value in chosen.items())
                    layer = (f"{key}.values", chosen)
                    yield reward, method, key, [*layers(reward, method), layer], suffix


def _known(name: str, names: Sequence[str] | Mapping[str, Any], key: str) -> None:
    if name not in names:
        raise UserError(f"{key}: {name!r} is unknown{did_you_mean(name, names)}")


def _spell(value: Any) -> str:
    """A swept value as part of a folder's name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.12g}"
    return str(value).lower()


def _settings(
    config: "Config",
    reward: str,
    method: Method,
    seed: int,
    layers: list[tuple[str, Mapping[str, Any]]],
    key: str,
) -> TrainingSettings:
    """The settings that a cell really uses: what has no effect on it is set to its default, so that
    changing it makes nothing run again."""
    if method.policy not in config.policies:
        raise UserError(f"{key} needs policies.{method.policy}, which the configuration lacks")
    find_module("algorithms", method.algorithm, key)
    if declared(method.algorithm, "DIFFERENTIATES", False):
        _check_gradient(reward, key)
    policy = config.policies[method.policy]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged |= layer
    _check_divergence(method, layers, merged, key)
    used = set(declared(method.algorithm, "SETTINGS"))
    idle = dict.fromkeys(sorted(_algorithm_settings() - used), method.algorithm)
    if method.policy != "consistency":  # the one whose last step is deterministic
        idle["horizon"] = f"the {method.policy} policy"
    for name, what in idle.items():
        stray = next((place for place, layer in _own(layers) if name in layer), None)
        if stray:
            raise UserError(f"{stray}.{name} has no effect on {what}: remove it")
        del merged[name]
    if "ratio_clip" in merged and merged["ratio_clip"] is None:
        merged["ratio_clip"] = declared(method.algorithm, "RATIO_CLIP")
    if merged.get("prompt_buffer") == 0:
        del merged["prompt_buffer_minimum"]
    if merged["beta"] != "auto":
        merged.pop("beta_calibration_steps", None)
    elif "beta_calibration_steps" not in merged:
        raise UserError(f"{key}.beta: {method.algorithm} cannot do auto: give it a number")
    if method.algorithm == "direct" and method.divergence == "none":
        del merged["reduction"], merged["reference_gradient"]
    _check_batches(method, merged, key)
    if merged["warmup_steps"] > merged["iterations"]:
        raise UserError(
            f"{key}: warmup_steps must be at most iterations, {merged['iterations']},"
            f" not {merged['warmup_steps']}"
        )
    _known(merged["prompts"], config.prompts, f"{key}.prompts")
    if merged["prompts"] == "validation":
        raise UserError(f"{key}.prompts: validation judges what was trained: name another set")
    steps, guidance = merged["inference_steps"], merged["guidance_scale"]
    merged["inference_steps"] = policy.steps if steps is None else steps
    merged["guidance_scale"] = policy.guidance_scale if guidance is None else guidance
    return TrainingSettings.from_dict(
        merged
        | {
            "reward": reward,
            "scorer": config.scorers[reward],
            "policy": method.policy,
            "seed": seed,
        }
        | {
            "model": policy.model,
            "model_lora": policy.lora,
            "algorithm": method.algorithm,
            "divergence": method.divergence,
        }
    )


def _own(layers: list[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The layers that are about one method, not about the methods of a reward or of the grid."""
    return [
        (place, layer)
        for place, layer in layers
        if place != "training" and ("/" in place or not place.startswith("cells."))
    ]


def _check_gradient(reward: str, key: str) -> None:
    if not is_differentiable(find_module("rewards", reward, "rewards")):
        method = key.removeprefix("methods.")
        raise UserError(
            f"{key} cannot train on {reward}, which has no gradient: set cells.{reward}/{method} to"
            " null"
        )


@functools.cache
def _algorithm_settings() -> frozenset[str]:
    """Training settings that only algorithms which declare them use."""
    return frozenset(s for name in modules("algorithms") for s in declared(name, "SETTINGS"))


def _check_divergence(
    method: Method, layers: list[tuple[str, Mapping[str, Any]]], merged: dict[str, Any], key: str
) -> None:
    """Divergence and β must suit the algorithm; β is 0 in `merged` where there is no divergence."""
    possible = declared(method.algorithm, "DIVERGENCES")
    if possible and method.divergence not in possible:
        raise UserError(
            f"{key}: {method.algorithm} cannot work with divergence {method.divergence}"
            f"{did_you_mean(method.divergence, possible)}"
        )
    if method.divergence == "none":
        stray = next((name for name, layer in _own(layers) if "beta" in layer), None)
        if stray:
            method_name = stray.rpartition("/")[2].rpartition(".")[2]
            raise UserError(f"{stray}: {method_name} has no divergence, hence no beta: remove it")
        merged["beta"] = 0.0
    elif "beta" not in merged:
        raise UserError(f"{key}.beta is missing: the weight of the divergence, a number or auto")


def _check_batches(method: Method, merged: Mapping[str, Any], key: str) -> None:
    """Counts that must divide one another."""
    if declared(method.algorithm, "PAIRED", False) and merged["images_per_prompt"] % 2:
        raise UserError(
            f"{key}.images_per_prompt must be even, as {method.algorithm} compares images of one"
            f" prompt, but it is {merged['images_per_prompt']}"
        )
    buffer = merged.get("prompt_buffer", 0)
    if buffer and merged["prompt_buffer_minimum"] > buffer:
        raise UserError(
            f"{key}: prompt_buffer_minimum must be at most prompt_buffer, {buffer}, or no prompt "
            f"ever has enough, but it is {merged['prompt_buffer_minimum']}"
        )
    defaults = TrainingSettings.__dataclass_fields__
    for part, whole in (
        ("images_per_prompt", "batch_size"),
        ("updates_per_iteration", "accumulation_steps"),
    ):
        divisor = merged.get(part, defaults[part].default)
        if merged[whole] % divisor:
            raise UserError(
                f"{key}: {part} must divide {whole}, {merged[whole]}, but it is {divisor}"
            )


def training_sets(cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that cells train on."""
    return list(dict.fromkeys(cell.settings.prompts for cell in cells))


def evaluation_sets(config: "Config", cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that sources are judged on: `validation` and, after it, any further ones."""
    others = {"train", "validation", *training_sets(cells)}
    return ["validation", *(name for name in config.prompts if name not in others)]


def sample_sets(
    config: "Config", judged: Sequence[str], source: Cell | str
) -> list[tuple[str, int]]:
    """The (prompt set, inference steps) of which a source's images are made, the main one first.

    Every set of `judged`, the `evaluation_sets`, at the first number of steps, and the validation
    prompts at all of them. Of a swept cell, whose setting is in question, the main one only.
    """
    policy = source.settings.policy if isinstance(source, Cell) else source
    own = config.policies[policy].steps
    steps = list(dict.fromkeys(given or own for given in config.generation.steps))
    if isinstance(source, Cell) and "--" in source.method:
        return [("validation", steps[0])]
    sets = [(name, steps[0]) for name in judged]
    return [*sets, *(("validation", number) for number in steps[1:])]


def beta_tries(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of regularised ROCM as configured or with another β and nothing else, of those rewards
    and divergences for which several β are tried."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        family, *swept = cell.method.split("--")
        is_rocm = cell.settings.algorithm == "direct" and cell.settings.divergence != "none"
        if is_rocm and all(setting.startswith("beta-") for setting in swept):
            found.setdefault((cell.reward, family), []).append(cell)
    return [c for own in found.values() if len({c.method for c in own}) > 1 for c in own]


def generation_settings(
    config: "Config", source: Cell | str, steps: int | None = None
) -> GenerationSettings:
    """How the images of a cell, or of a policy's base model, are made for scoring.

    The chain has as many steps for every source, so that images differ by the weights alone:
    `steps`, else the first that the configuration names.
    """
    name = source.settings.policy if isinstance(source, Cell) else source
    policy = config.policies[name]
    guidance = source.settings.guidance_scale if isinstance(source, Cell) else policy.guidance_scale
    return GenerationSettings(
        policy=name,
        model=policy.model,
        model_lora=policy.lora,
        inference_steps=steps or config.generation.steps[0] or policy.steps,
        guidance_scale=guidance,
        seed=config.generation.seed,
        batch_size=config.generation.batch_size,
    )


def prompts_code(settings: PromptSettings) -> str:
    """Code fingerprint of the job that makes a prompt set."""
    embedded = ["rocm_core.shapes.scenes"] if settings.source == "shapes" else []
    return code_fingerprint("workflow/scripts/make_prompts.py", "rocm_core.prompt_sets", *embedded)


def train_code(settings: TrainingSettings) -> str:
    """Code fingerprint of a cell's training."""
    names = [
        f"policies.{settings.policy}",
        f"algorithms.{settings.algorithm}",
        f"rewards.{settings.reward}",
    ]
    names += [f"divergences.{settings.divergence}"] if settings.divergence != "none" else []
    return code_fingerprint("workflow/scripts/train.py", *_modules(names))


def train_version(settings: TrainingSettings, weights: str, processes: int) -> str:
    """What names the state of a cell's unfinished training: a digest of all that decides it.

    weights: a digest of what the training loads. A state of another version is left alone.
    """
    parts = {
        "settings": json.dumps(settings.to_dict(), sort_keys=True),
        "code": train_code(settings),
        "weights": weights,
    }
    if processes > 1:
        parts["processes"] = str(processes)
    return digest_of(parts)[:16]


def generate_code(settings: GenerationSettings) -> str:
    """Code fingerprint of making images."""
    return code_fingerprint(
        "workflow/scripts/generate.py", *_modules([f"policies.{settings.policy}"])
    )


def score_code(metrics: Sequence[str]) -> str:
    """Code fingerprint of scoring images by `metrics`."""
    return code_fingerprint(
        "workflow/scripts/score.py", *_modules([f"rewards.{m}" for m in metrics])
    )


def measure_code() -> str:
    """Code fingerprint of measuring read-outs."""
    return code_fingerprint("workflow/scripts/measure.py")


def monitor_code(settings: GenerationSettings, metrics: Sequence[str]) -> str:
    """Code fingerprint of judging a cell's snapshots."""
    names = [f"policies.{settings.policy}", *(f"rewards.{m}" for m in metrics)]
    return code_fingerprint("workflow/scripts/monitor.py", *_modules(names))


def _modules(names: Sequence[str]) -> list[str]:
    return [f"rocm_core.{name.replace('-', '_')}" for name in names]


def table(cells: Sequence[Cell]) -> str:
    """The grid as text: each cell's name and the settings in which cells differ."""
    rows = [cell.settings.to_dict() for cell in cells]
    hidden = {"reward", "scorer", "policy", "model", "algorithm", "divergence", "seed"}
    keys = ["beta", "learning_rate", "batch_size", "iterations"]
    keys += [
        k
        for k in (rows[0] if rows else {})
        if k not in hidden | set(keys) and len({str(r[k]) for r in rows}) > 1
    ]
    lines = [["cell", *keys]] + [
        [c.name, *(str(r[k]) for k in keys)] for c, r in zip(cells, rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, f"{len(cells)} cells"])


def main() -> None:
    from rocm_core.config import load_config

    parser = argparse.ArgumentParser(description="Print the cells of a configuration.")
    parser.add_argument("--configfile", required=True)
    print(table(make_grid(load_config(parser.parse_args().configfile))))


if __name__ == "__main__":
    run(main)
