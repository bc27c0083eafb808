"""The settings of a cell: layers of the configuration, merged and checked."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rocm_core.configuration import Config, TrainingSettings, settings_class
from rocm_core.errors import UserError
from rocm_core.grid.chains import chain_of, ends_without_noise, never_draws
from rocm_core.grid.methods import Method
from rocm_core.grid.used import listed
from rocm_core.plugins import did_you_mean, facts, require_known
from rocm_core.reading import show

Layers = list[tuple[str, Mapping[str, Any]]]
# Settings without effect where there is no divergence.
_OF_DIVERGENCE = (
    *("step_weights", "last_step_divergence", "reference_reset", "reference_decay"),
    *("gate_by", "gate_above"),
)


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
    policy, chain = config.policies[method.policy], chain_of(config, method.policy)
    members, ensemble = config.members(reward), config.ensembles.get(reward)
    own, about = settings_class(method.algorithm, key), facts("algorithms", method.algorithm, key)
    if about["DIFFERENTIATES"] and not all(
        facts("rewards", member, "rewards")["DIFFERENTIABLE"] for member in members
    ):
        raise UserError(
            f"{key} cannot train on {reward}, which has no gradient: set"
            f" cells.{reward}/{key.removeprefix('methods.')} to null"
        )
    for name in ("gamma", "timesteps"):
        where = f"policies.{method.policy}"
        if getattr(policy, name) is not None and (
            name not in facts("chains", chain, f"{where}.chain")["OPTIONS"]
        ):
            raise UserError(f"{where}.{name} has no effect on the chain {chain}: remove it")
    merged = {name: value for _, layer in layers for name, value in layer.items()}
    _check_divergence(method, layers, merged, key, about["DIVERGENCES"])
    merged = _effective(method, own, layers, merged, key)
    _check_counts(method, own, about["PAIRED"], merged, key)
    if None not in (merged.get("reference_reset"), merged.get("reference_decay")):
        raise UserError(f"{key}: reference_reset and reference_decay exclude each other: set one")
    _check_scorers(config, reward, merged, key)
    known = {"inference_steps": policy.steps} | merged
    _check_noise(config, method, own, known, layers, key)
    _check_gradient(config, method, known, key)
    require_known(merged["prompts"], config.prompts, f"{key}.prompts")
    if merged["prompts"] == "validation":
        raise UserError(f"{key}.prompts: validation evaluates what was trained: name another set")
    beside = [*(members if ensemble else ()), *listed(merged.get("gate_by"))]
    return own.from_dict(
        {"inference_steps": policy.steps, "guidance_scale": policy.guidance_scale}
        | merged
        | {
            "reward": reward,
            "scorer": config.scorers.get(reward),
            "ensemble": ensemble.to_dict() if ensemble else None,
            "scorers": {name: config.scorers[name] for name in beside} or None,
            "policy": method.policy,
            "chain": chain,
            "model": policy.model,
            "gamma": policy.gamma,
            "timesteps": policy.timesteps,
            "model_lora": policy.lora,
            "resolution": config.resolution,
            "algorithm": method.algorithm,
            "divergence": method.divergence,
            "seed": seed,
        }
    )


def _effective(
    method: Method,
    own: type[TrainingSettings],
    layers: Layers,
    merged: Mapping[str, Any],
    key: str,
) -> dict[str, Any]:
    """Those of the merged settings that have an effect on a method, whose settings' class is `own`.

    One that has none is left out where it is for all methods of the grid or of a reward, and
    refused where it is for this one; null and false ask for nothing.
    """
    idle: dict[str, str] = {}
    if method.divergence == "none":
        idle |= dict.fromkeys(_OF_DIVERGENCE, "without a divergence")
    if method.policy == "diffusion":  # whose last step draws
        idle["horizon"] = "on the diffusion policy"
    idle |= dict.fromkeys(merged.keys() - own.model_fields, f"on {method.algorithm}")
    for place, layer in _own(layers):
        for name in sorted(idle.keys() & layer.keys()):
            if layer[name] is not None and layer[name] is not False:
                raise UserError(f"{place}.{name} has no effect {idle[name]}: remove it")
    if not own.regularises and isinstance(merged["beta"], dict) and "target" in merged["beta"]:
        raise UserError(f"{key}.beta: {method.algorithm} has no target: give it a number")
    unread = set(idle)
    if merged.get("prompt_buffer") == 0:
        unread.add("prompt_buffer_minimum")
    if merged["learning_rate_schedule"] == "constant":
        unread.add("learning_rate_end")
    if method.algorithm == "direct" and method.divergence == "none":
        unread |= {"reduction", "reference_gradient"}
    return {  # null stands for the policy's or the algorithm's own, where it is not a value
        name: value
        for name, value in merged.items()
        if name not in unread
        and (value is not None or type(None) in get_args(own.model_fields[name].annotation))
    }


def _check_scorers(config: Config, reward: str, merged: Mapping[str, Any], key: str) -> None:
    """The scorers that gate or stop a training must be able to."""
    for name in ("gate_by", "stop_by"):
        for scorer in listed(merged.get(name)):
            require_known(scorer, config.scorers, f"{key}.{name}", "not among the scorers")
            if scorer == "gold":
                raise UserError(f"{key}.{name}: the gold judge has no say in a training: remove it")
    if merged.get("snapshot_at") and not merged["snapshot_every"]:
        raise UserError(f"{key}.snapshot_at adds to others: set snapshot_every above 0")
    if merged.get("stop_by") and not merged["snapshot_every"]:
        raise UserError(f"{key}.stop_by chooses among snapshots: set snapshot_every above 0")
    gates = listed(merged.get("gate_by"))
    if not gates:
        if merged.get("gate_above"):
            raise UserError(f"{key}.gate_above has no effect without gate_by: remove it")
        return
    if reward in config.ensembles:
        raise UserError(
            f"{key}.gate_by compares one scorer with others, and {reward} is an ensemble: combine"
            " that by mean_minus_std, or train on one scorer"
        )
    for scorer in (reward, *gates):
        if facts("rewards", scorer, f"{key}.gate_by")["DRIFTS"]:
            raise UserError(
                f"{key}.gate_by: {scorer} changes during a training, so that no scores of the base"
                " standardise it: remove gate_by"
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
        raise UserError(f"{key}.beta is missing: the weight of the divergence")


def _check_counts(
    method: Method,
    own: type[TrainingSettings],
    paired: bool,
    merged: Mapping[str, Any],
    key: str,
) -> None:
    """Counts that bound one another, must divide one another, or are too few to compare images."""
    for name in ("images_per_prompt", "batch_size") if paired else ():
        if merged[name] % 2:
            raise UserError(
                f"{key}.{name} must be even, as {method.algorithm} compares two images of one"
                f" prompt in a batch, but it is {merged[name]}"
            )
    if merged["images_per_prompt"] < own.least_images_per_prompt:
        raise UserError(
            f"{key}.images_per_prompt must be at least {own.least_images_per_prompt}, as"
            f" {method.algorithm} compares the images of a prompt, but it is"
            f" {merged['images_per_prompt']}"
        )
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
    batches = merged["accumulation_steps"]
    for part, whole, count in (
        ("images_per_prompt", "batch_size × accumulation_steps", merged["batch_size"] * batches),
        ("updates_per_iteration", "accumulation_steps", batches),
    ):
        divisor = merged.get(part, 1)
        if count % divisor:
            raise UserError(f"{key}: {part} must divide {whole}, {count}, but it is {divisor}")


def _check_noise(
    config: Config,
    method: Method,
    own: type[TrainingSettings],
    merged: Mapping[str, Any],
    layers: Layers,
    key: str,
) -> None:
    """What is over the steps that draw noise, a divergence or a policy gradient, needs such a step.

    Some chains have none, and of one step none has where its last is deterministic. A model that is
    still to be fetched may leave this open: its job then refuses.
    """
    chain = chain_of(config, method.policy)
    if method.divergence != "none" and not merged.get("last_step_divergence"):
        what = f"the divergence {method.divergence} is over"
    elif own.learns_from_noise and merged.get("horizon") != "released":
        what = f"{method.algorithm} learns from"
    else:
        return
    if merged["inference_steps"] > 1 and never_draws(config, method.policy, chain):
        raise UserError(
            f"{key}: {what} the steps that draw noise, and the chain {chain} of"
            f" policies.{method.policy} has none: name another chain there, such as flow, or a"
            " gamma above 0"
        )
    if merged["inference_steps"] > 1 or not ends_without_noise(config, method.policy, chain):
        return
    place = next(
        (
            f"inference_steps of {place}"
            for place, layer in layers[::-1]
            if layer.get("inference_steps")
        ),
        f"policies.{method.policy}.steps",
    )
    raise UserError(
        f"{key}: {what} the steps that draw noise, and of the chain {chain} with 1 step there are"
        f" none: raise {place}"
    )


def _check_gradient(config: Config, method: Method, merged: Mapping[str, Any], key: str) -> None:
    """What backpropagates through the last steps alone needs them, and needs a gradient there."""
    truncate, steps = merged.get("truncate"), merged["inference_steps"]
    fewest, most = truncate if isinstance(truncate, list | tuple) else (truncate, truncate)
    if isinstance(most, int) and (fewest > most or most > steps):
        raise UserError(
            f"{key}.truncate must be at most inference_steps, {steps}, the fewest steps first, but"
            f" it is {show(truncate)}"
        )
    only_last = truncate == "last" or truncate == 1
    if merged.get("low_variance") is not None and not only_last:
        raise UserError(f"{key}.low_variance is about the last step: set truncate to last")
    chain = chain_of(config, method.policy)
    without = ends_without_noise(config, method.policy, chain)
    needs = "hybrid" if method.algorithm == "hybrid" else "truncate: last"
    if without is False and (method.algorithm == "hybrid" or truncate == "last"):
        raise UserError(
            f"{key}: {needs} is about a last step that draws no noise, and the chain {chain} has"
            " none: "
            + ("use grpo or direct" if method.algorithm == "hybrid" else "set truncate to 1")
        )
    regularises_last = bool(merged.get("last_step_divergence"))
    if regularises_last and without is False:
        raise UserError(
            f"{key}.last_step_divergence is about a last step that draws no noise, and the chain"
            f" {chain} has none: remove it"
        )
    weights = merged.get("step_weights")
    wanted = steps - bool(without) + regularises_last
    if weights is not None and without is not None and len(weights) != wanted:
        raise UserError(
            f"{key}.step_weights must be {wanted} numbers, one for each step that is compared, but"
            f" it is {show(weights)}"
        )
    if not without or regularises_last:
        return
    if only_last and method.divergence != "none" and merged["beta"]:
        raise UserError(
            f"{key}.truncate: {truncate} leaves the divergence {method.divergence} no gradient, as"
            " the last step draws no noise: raise truncate, or take divergence none"
        )
