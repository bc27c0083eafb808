"""What one cell is trained with: layers of the configuration, merged and checked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from rocm_core.configuration import TrainingSettings, settings_class
from rocm_core.errors import UserError
from rocm_core.grid.methods import Method, chain_of
from rocm_core.plugins import did_you_mean, facts

if TYPE_CHECKING:
    from rocm_core.configuration import Config

Layers = list[tuple[str, Mapping[str, Any]]]


def require_known(name: str, names: Sequence[str] | Mapping[str, Any], key: str) -> None:
    """Raise `UserError` for `key` unless `name` is one of `names`."""
    if name not in names:
        raise UserError(f"{key}: {name!r} is unknown{did_you_mean(name, names)}")


def cell_settings(
    config: "Config",
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
    if about["DIFFERENTIATES"]:
        _check_gradient(reward, key)
    policy = config.policies[method.policy]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged |= layer
    _check_divergence(method, layers, merged, key)
    own = settings_class(method.algorithm, key)
    idle = dict.fromkeys(sorted(merged.keys() - own.model_fields), method.algorithm)
    if method.policy != "consistency":  # the one whose last step is deterministic
        idle |= {"horizon": f"the {method.policy} policy"} if "horizon" in merged else {}
    for name, what in idle.items():
        stray = next((place for place, layer in _own(layers) if name in layer), None)
        if stray:
            raise UserError(f"{stray}.{name} has no effect on {what}: remove it")
        del merged[name]
    for name in [name for name, value in merged.items() if value is None]:
        if type(None) not in get_args(own.model_fields[name].annotation):
            del merged[name]  # null stands for the policy's or the algorithm's own
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
    require_known(merged["prompts"], config.prompts, f"{key}.prompts")
    if merged["prompts"] == "validation":
        raise UserError(f"{key}.prompts: validation judges what was trained: name another set")
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


def _check_gradient(reward: str, key: str) -> None:
    if not facts("rewards", reward, "rewards")["DIFFERENTIABLE"]:
        method = key.removeprefix("methods.")
        raise UserError(
            f"{key} cannot train on {reward}, which has no gradient: set cells.{reward}/{method} to"
            " null"
        )


def _check_divergence(method: Method, layers: Layers, merged: dict[str, Any], key: str) -> None:
    """Divergence and β must suit the algorithm; β is 0 in `merged` where there is no divergence."""
    possible = facts("algorithms", method.algorithm)["DIVERGENCES"]
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
    if facts("algorithms", method.algorithm)["PAIRED"] and merged["images_per_prompt"] % 2:
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
    for part, whole in (
        ("images_per_prompt", "batch_size"),
        ("updates_per_iteration", "accumulation_steps"),
    ):
        divisor = merged.get(part, 1)
        if merged[whole] % divisor:
            raise UserError(
                f"{key}: {part} must divide {whole}, {merged[whole]}, but it is {divisor}"
            )
