"""The grid: one plain table of cells, each a training run with settings of its own.

A method is an update rule on a policy, with a divergence; some have names of the field. The
settings of a cell are layers of the configuration, merged and checked.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rocm_core.configuration import (
    Config,
    TrainingSettings,
    load_schema,
    settings_class,
    validate,
)
from rocm_core.errors import UserError
from rocm_core.grid.models import default_chain, scheduler_says
from rocm_core.grid.used import listed
from rocm_core.plugins import did_you_mean, facts, module_of, names, require_known, short_name
from rocm_core.reading import show

Layers = list[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Method:
    """What a method's name stands for: an update rule on a policy, with a divergence or "none"."""

    algorithm: str
    policy: str
    divergence: str


# The field's names. Direct preference optimisation is KL-regularised by construction, at weight β;
# what DPOK's release calls KL is the squared difference of the predicted noise.
METHODS = {
    "rlcm": Method("ppo", "consistency", "none"),
    "ddpo": Method("ppo", "diffusion", "none"),
    "dpok": Method("dpok", "diffusion", "epsilon"),
    "d3po": Method("d3po", "diffusion", "kl"),
}
POLICIES = ("consistency", "diffusion")
# Settings without effect where there is no divergence.
_OF_DIVERGENCE = (
    *("step_weights", "last_step_divergence", "reference_reset", "reference_decay"),
    *("gate_by", "gate_above"),
)


def chain_of(config: Config, policy: str) -> str:
    """The name of the chain that a policy of the configuration has.

    A diffusion model's scheduler says how it is sampled without noise, or by whom: not its chain.
    """
    settings = config.policies[policy]
    if settings.chain or policy == "diffusion":
        return settings.chain or "ddim"
    return default_chain(settings.model) or "lcm"


def parse_method(name: str, key: str, policies: Iterable[str] = ()) -> tuple[str, Method]:
    """The canonical name of a method and what it stands for; raises `UserError` naming `key`.

    `rocm-<divergence>`, one of `METHODS`, or `<algorithm>-<policy>[-<divergence>]`, where a name
    with a dot is a module of another package; `policies` are names beside the two that the methods
    have.
    """
    if name in METHODS:
        return name, METHODS[name]
    spelled = f"direct-consistency-{name.removeprefix('rocm-')}" if name[:5] == "rocm-" else name
    parts = _split(spelled, [*POLICIES, *policies])
    if parts is None:
        known = ["rocm-none", *(f"rocm-{d.replace('_', '-')}" for d in names("divergences"))]
        raise UserError(f"{key}: {name!r} is not a method{did_you_mean(name, [*known, *METHODS])}")
    algorithm, policy, divergence = parts
    module_of("algorithms", algorithm, key)
    if divergence != "none":  # which may be another name of the one that is trained
        module = short_name(module_of("divergences", divergence, key))
        divergence = facts("divergences", divergence, key)["ALIAS_OF"] or module
    method = Method(algorithm, policy, divergence)
    return name_of(method), method


def name_of(method: Method) -> str:
    """The canonical name of a method."""
    known_as = {meaning: known for known, meaning in METHODS.items()}
    if method in known_as:
        return known_as[method]
    if (method.algorithm, method.policy) == ("direct", "consistency"):
        return f"rocm-{_spell(method.divergence)}"
    suffix = [] if method.divergence == "none" else [_spell(method.divergence)]
    return "-".join([_spell(method.algorithm), _spell(method.policy), *suffix])


def _spell(module: str) -> str:
    """A module as part of a method's name; one of another package keeps its spelling."""
    return module if "." in module else module.replace("_", "-")


def _split(name: str, policies: Iterable[str]) -> tuple[str, str, str] | None:
    """Algorithm, policy and divergence or "none" that a spelled-out method names."""
    head = name.split("-")[0]
    for algorithm in [head] if "." in head else names("algorithms"):
        for policy in sorted(set(policies), key=len, reverse=True):
            rest = name.removeprefix(f"{_spell(algorithm)}-{_spell(policy)}")
            if rest in ("", "-none"):
                return algorithm, policy, "none"
            if rest.startswith("-") and len(rest) > 1:
                return algorithm, policy, rest[1:]
    return None


@dataclass(frozen=True)
class Cell:
    """One training run.

    `method` is in its canonical spelling; `swept` are the settings that a sweep chose for this
    cell, with their values. A `trial` is one of the shorter runs of a search.
    """

    reward: str
    method: str
    swept: tuple[tuple[str, Any], ...]
    seed: int
    settings: TrainingSettings
    trial: bool = False

    @property
    def trained_with(self) -> TrainingSettings:
        """What the training depends on: not who chooses among its snapshots afterwards."""
        return self.settings.model_copy(update={"stop_by": None})

    @property
    def variant(self) -> str:
        """The method with what a sweep chose, as folders and tables name it: rocm-kl--beta-0.01."""
        return self.method + "".join(f"--{name}-{spell(value)}" for name, value in self.swept)

    @property
    def name(self) -> str:
        """Folder of the cell below `cells/` and `samples/`: hpsv2/rocm-kl/seed-0."""
        return f"{self.reward}/{self.variant}/seed-{self.seed}"

    @property
    def evaluated_on(self) -> str:
        """The prompt set on which its snapshots are evaluated: that of its training where a sweep
        chose it, as the animals of figure 6, else the validation prompts."""
        return self.settings.prompts if "prompts" in dict(self.swept) else "validation"


@functools.cache
def make_grid(config: Config) -> tuple[Cell, ...]:
    """All cells of a configuration, in its order, each once: where an alias or a sweep repeats the
    settings of a cell, the first name stands. Raises `UserError` naming the key at fault."""
    cells: dict[tuple[str, bool], Cell] = {}
    named: dict[str, str] = {}
    methods = {
        method: parse_method(method, f"methods.{method}", config.policies)
        for method in config.methods
    }
    plan = list(_plan(config))
    known = [f"{reward}/{method}" for reward in config.rewards for method in config.methods]
    for place, given in config.cells.items():
        if place not in (*known, *config.rewards):
            raise UserError(f"cells.{place} is not a cell of the grid{did_you_mean(place, known)}")
        if given is None and place in config.rewards:
            raise UserError(f"cells.{place} is null: remove {place} from rewards instead")
    if not plan:
        raise UserError("cells is null for every cell of the grid: leave one")
    for reward, method, key, layers, swept, trial in plan:
        canonical, meaning = methods[method]
        for seed in config.seeds[:1] if trial else config.seeds:
            settings = cell_settings(config, reward, meaning, seed, layers, key)
            every = settings.reference_reset
            if every is not None and every >= settings.iterations and not trial:
                raise UserError(
                    f"{key}.reference_reset must be below iterations, {settings.iterations}, or the"
                    f" reference never moves, but it is {every}"
                )
            cell = Cell(reward, canonical, swept, seed, settings, trial)
            content = json.dumps(settings.to_dict(), sort_keys=True)
            if (content, trial) in cells:
                continue
            if cell.name in named:
                raise UserError(
                    f"{key} and {named[cell.name]} are the same cell, {cell.name}, with different"
                    " settings: keep one of them"
                )
            named[cell.name] = key
            cells[content, trial] = cell
    return tuple(cells.values())


def trials_of(cells: Iterable[Cell], reward: str, method: str) -> list[Cell]:
    """The trials of the search that chooses settings of a method on a reward."""
    return [c for c in cells if c.trial and (c.reward, c.method) == (reward, method)]


def _plan(
    config: Config,
) -> Iterator[tuple[str, str, str, Layers, tuple[tuple[str, Any], ...], bool]]:
    """(reward, method, key for errors, layers of settings under their keys, what is swept, whether
    it is a trial of a search)."""

    def layers(reward: str, method: str) -> Layers:
        return [
            ("training", config.training),
            (f"methods.{method}", config.methods[method]),
            (f"cells.{reward}", config.cells.get(reward) or {}),
            (f"cells.{reward}/{method}", config.cells.get(f"{reward}/{method}") or {}),
        ]

    def is_wanted(reward: str, method: str) -> bool:
        return config.cells.get(f"{reward}/{method}", {}) is not None

    unwatched = {"snapshot_every": 0, "snapshot_at": None, "stop_by": None}
    for reward in config.rewards:
        for method in filter(functools.partial(is_wanted, reward), config.methods):
            key, own = f"methods.{method}", layers(reward, method)
            yield reward, method, key, own, (), False
            for chosen in _combinations(own, key):
                below = [*own, (f"{key}, search", chosen | unwatched)]
                yield reward, method, key, below, tuple(chosen.items()), True
    for index, sweep in enumerate(config.sweeps):
        key = f"sweeps[{index}]"
        properties = load_schema(config.methods)["properties"]["training"]["properties"]
        swept = {sweep.setting: sweep.values} | (sweep.cross or {})
        for setting, values in swept.items():
            is_main = setting == sweep.setting
            require_known(setting, properties, f"{key}.{'setting' if is_main else 'cross'}")
            where = ("values",) if is_main else ("cross", setting)
            for value in values:
                validate(value, properties[setting], ("sweeps", index, *where))
        for reward in sweep.rewards or config.rewards:
            require_known(reward, config.rewards, f"{key}.rewards")
            for method in sweep.methods:
                require_known(method, config.methods, f"{key}.methods")
                for values in (
                    itertools.product(*swept.values()) if is_wanted(reward, method) else ()
                ):
                    chosen = dict(zip(swept, values, strict=True))
                    below = [*layers(reward, method), (f"{key}.values", chosen)]
                    named = ((k, tuple(v) if isinstance(v, list) else v) for k, v in chosen.items())
                    yield reward, method, key, below, tuple(named), False


def _combinations(layers: Layers, key: str) -> Iterator[dict[str, Any]]:
    """The settings of each trial of a search: every combination of the values of what is searched,
    and their number of iterations."""
    merged = {name: value for _, layer in layers for name, value in layer.items()}
    searched = {n: v for n, v in merged.items() if isinstance(v, Mapping) and "search" in v}
    lengths = {search["iterations"] for search in searched.values()}
    if len(lengths) > 1:
        raise UserError(
            f"{key}: {' and '.join(searched)} are searched together: give both the same iterations"
        )
    for values in itertools.product(*(search["search"] for search in searched.values())):
        if searched:
            yield dict(zip(searched, values, strict=True)) | {"iterations": lengths.copy().pop()}


def spell(value: Any) -> str:
    """A swept value as folders and labels write it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "-".join(map(spell, value))
    return str(value).lower()


def table(cells: Sequence[Cell]) -> str:
    """The grid as text: each cell's name and the settings in which cells differ."""
    rows = [cell.settings.to_dict() for cell in cells]
    hidden = {"reward", "scorer", "policy", "model", "algorithm", "divergence", "seed"}
    hidden |= {"scorers", "ensemble"}
    keys = ["beta", "learning_rate", "batch_size", "iterations"]
    others = dict.fromkeys(key for row in rows for key in row if key not in hidden | set(keys))
    keys += [key for key in others if len({str(row[key]) for row in rows if key in row}) > 1]
    lines = [["cell", *keys]] + [
        [c.name, *(_shown(r.get(k, "")) for k in keys)] for c, r in zip(cells, rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*text, f"{len(cells)} cell{'s' * (len(cells) != 1)}"])


def _shown(value: Any) -> str:
    """A setting in the table; of one that is searched for, what is tried."""
    tried = value.get("search", ()) if isinstance(value, dict) else ()
    return "|".join(map(spell, tried)) or str(value)


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
    ensemble = config.ensembles.get(reward)
    about, members = facts("algorithms", method.algorithm, key), config.members(reward)
    scorers = [facts("rewards", member, "rewards") for member in members]
    if about["DIFFERENTIATES"] and not all(scorer["DIFFERENTIABLE"] for scorer in scorers):
        raise UserError(
            f"{key} cannot train on {reward}, which has no gradient: set"
            f" cells.{reward}/{key.removeprefix('methods.')} to null"
        )
    policy = config.policies[method.policy]
    options = facts("chains", chain_of(config, method.policy), f"policies.{method.policy}.chain")
    for name in ("gamma", "timesteps"):
        if getattr(policy, name) is not None and name not in options["OPTIONS"]:
            raise UserError(
                f"policies.{method.policy}.{name} has no effect on the chain"
                f" {chain_of(config, method.policy)}: remove it"
            )
    merged = {name: value for _, layer in layers for name, value in layer.items()}
    _check_divergence(method, layers, merged, key, about["DIVERGENCES"])
    own = settings_class(method.algorithm, key)
    idle = dict.fromkeys(sorted(merged.keys() - own.model_fields), method.algorithm)
    if "horizon" in merged and method.policy == "diffusion":  # whose last step draws
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
    if merged["learning_rate_schedule"] == "constant":
        del merged["learning_rate_end"]
    if not own.regularises and isinstance(merged["beta"], dict) and "target" in merged["beta"]:
        raise UserError(f"{key}.beta: {method.algorithm} has no target: give it a number")
    if method.algorithm == "direct" and method.divergence == "none":
        del merged["reduction"], merged["reference_gradient"]
    for name in _OF_DIVERGENCE if method.divergence == "none" else ():
        value = merged.pop(name, None)
        if value is not None and value is not False:
            if stray := next((place for place, layer in _own(layers) if name in layer), None):
                raise UserError(f"{stray}.{name} has no effect without a divergence: remove it")
    for name in ("images_per_prompt", "batch_size") if about["PAIRED"] else ():
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
    _check_counts(merged, key)
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
            "chain": chain_of(config, method.policy),
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
    if merged["inference_steps"] > 1 and _never_draws(config, method.policy, chain):
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


def _never_draws(config: Config, policy: str, chain: str) -> bool:
    """Whether no step of a policy's chain is known to draw noise."""
    about, own = facts("chains", chain, f"policies.{policy}.chain"), config.policies[policy]
    key = about["DRAWS_WITH"]
    if key in about["OPTIONS"]:
        return getattr(own, key) == 0
    return bool(key) and not scheduler_says(own.model, key)


def ends_without_noise(config: Config, policy: str, chain: str) -> bool | None:
    """Whether the last step of a policy's chain is deterministic; None where it is not known."""
    says = facts("chains", chain, f"policies.{policy}.chain")["DETERMINISTIC_LAST"]
    if isinstance(says, bool):
        return says
    value = scheduler_says(config.policies[policy].model, says)
    return value if isinstance(value, bool) else None
