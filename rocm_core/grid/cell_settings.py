"""What one cell is trained with: layers of the configuration, merged and checked."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rocm_core.configuration import Config, TrainingSettings, settings_class
from rocm_core.errors import UserError
from rocm_core.grid.methods import Method, chain_of
from rocm_core.plugins import did_you_mean, facts, require_known

Layers = list[tuple[str, Mapping[str, Any]]]


def cell_settings(
    config: Config,
    reward: str,
    method: Method,
    seed: int,
    layers: Layers,
    key: str,
) -> TrainingSettings:
    """The settings that a cell really uses, of its algorithm's class: what has no effect on it is
    not there, or has its default, so that changing it makes nothing run again."""
    if method.policy not in config.policies:
        raise UserError(f"{key} needs policies.{method.policy}, which the configuration lacks")
    about = facts("algorithms", method.algorithm, key)
    if about["DIFFERENTIATES"] and not facts("rewards", reward, "rewards")["DIFFERENTIABLE"]:
        raise UserError(
            f"{key} cannot train on {reward}, which has no gradient: set"
            f" cells.{reward}/{key.removeprefix('methods.')} to null"
        )
    policy = config.policies[method.policy]
    merged = {name: value for _, layer in layers for name, value in layer.items()}
    _check_divergence(method, layers, merged, key, about["DIVERGENCES"])
    own = settings_class(method.algorithm, key)
    idle = dict.fromkeys(sorted(merged.keys() - own.model_fields), method.algorithm)
    if "horizon" in merged and method.policy != "consistency":  # whose last step is deterministic
        idle["horizon"] = f"the {method.policy} policy"
    for name, what in idle.items():
        if stray := next((place for place, layer in _own(layers) if name in layer), None):
            raise UserError(f"{stray}.{name} has no effect on {what}: remove it")
    merged = {  # null stands for the policy's or the algorithm's own, where it is not a value
        name: value
        for name, value in merged.items()
        if name not in idle
        and (value is not None or type(None) in get_args(own.model_fields[name].annotation))
    }
    if merged.get("prompt_buffer") == 0:
        del merged["prompt_buffer_minimum"]
    if merged["beta"] != "auto":
        merged.pop("beta_calibration_steps", None)
    elif "beta_calibration_steps" not in merged:
        raise UserError(f"{key}.beta: {method.algorithm} cannot do auto: give it a number")
    if method.algorithm == "direct" and method.divergence == "none":
        del merged["reduction"], merged["reference_gradient"]
    if about["PAIRED"] and merged["images_per_prompt"] % 2:
        raise UserError(
            f"{key}.images_per_prompt must be even, as {method.algorithm} compares images of one"
            f" prompt, but it is {merged['images_per_prompt']}"
        )
    _check_counts(merged, key)
    require_known(merged["prompts"], config.prompts, f"{key}.prompts")
    if merged["prompts"] == "validation":
        raise UserError(f"{key}.prompts: validation evaluates what was trained: name another set")
    return own.from_dict(
        {"inference_steps": policy.steps, "guidance_scale": policy.guidance_scale}
        | merged
        | {
            "reward": reward,
            "scorer": config.scorers[reward],
            "policy": method.policy,
            "chain": chain_of(config, method.policy),
            "model": policy.model,
            "model_lora": policy.lora,
            "algorithm": method.algorithm,
            "divergence": method.divergence,
            "seed": seed,
        }
    )


def _own(layers: Layers) -> Layers:
    """The layers that are about one method, not about the methods of a reward or of the grid."""
    return [
        (place, layer)
        for place, layer in layers
        if place != "training" and ("/" in place or not place.startswith("cells."))
    ]


def _check_divergence(
    method: Method, layers: Layers, merged: dict[str, Any], key: str, possible: Sequence[str]
) -> None:
    """Divergence and β must suit the algorithm; β is 0 in `merged` where there is no divergence.

    possible: the divergences that the algorithm can work with; empty: all.
    """
    if possible and method.divergence not in possible:
        raise UserError(
            f"{key}: {method.algorithm} cannot work with divergence {method.divergence}"
            f"{did_you_mean(method.divergence, possible)}"
        )
    if method.divergence == "none":
        if stray := next((place for place, layer in _own(layers) if "beta" in layer), None):
            method_name = stray.rpartition("/")[2].rpartition(".")[2]
            raise UserError(f"{stray}: {method_name} has no divergence, hence no beta: remove it")
        merged["beta"] = 0.0
    elif "beta" not in merged:
        raise UserError(f"{key}.beta is missing: the weight of the divergence, a number or auto")


def _check_counts(merged: Mapping[str, Any], key: str) -> None:
    """Counts that bound one another or must divide one another."""
    if merged["warmup_steps"] > merged["iterations"]:
        raise UserError(
            f"{key}: warmup_steps must be at most iterations, {merged['iterations']},"
            f" not {merged['warmup_steps']}"
        )
    buffer = merged.get("prompt_buffer", 0)
    if buffer and merged["prompt_buffer_minimum"] > buffer:
        raise UserError(
            f"{key}: prompt_buffer_minimum must be at most prompt_buffer, {buffer}, or no prompt "
            f"ever has enough, but it is {merged['prompt_buffer_minimum']}"
        )
    for part, whole in (
        ("images_per_prompt", "batch_size"),
        ("updates_per_iteration", "accumulation_steps"),
    ):
        divisor = merged.get(part, 1)
        if merged[whole] % divisor:
            raise UserError(
                f"{key}: {part} must divide {whole}, {merged[whole]}, but it is {divisor}"
            )
