"""Typed settings of one job. They travel as JSON in `params:`, and hold all that the job uses."""

import contextlib
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from rocm_core.errors import UserError


class Settings:
    """What the frozen dataclasses below share: strict, lossless conversion from and to JSON."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values (tuples become lists)."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings in `values`; raises `UserError` on an unknown, missing or ill-typed key."""
        hints, needed = _fields(cls)  # type: ignore[arg-type]
        for key in values:
            if key not in hints:
                raise UserError(f"{cls.__name__} has no key {key!r}: it has {', '.join(hints)}")
        for key in needed:
            if key not in values:
                raise UserError(f"{cls.__name__} needs the key {key!r}")
        return cls(**{k: _convert(f"{cls.__name__}.{k}", v, hints[k]) for k, v in values.items()})


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], list[str]]:
    """Annotations of a dataclass, and the fields without a default."""
    needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    return typing.get_type_hints(cls), needed


def _convert(where: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type: 1 becomes 1.0 for a float, a list a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        for argument in arguments:
            try:
                return _convert(where, value, argument)
            except UserError:
                continue
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and (
            arguments[-1] is ... or len(value) == len(arguments)
        ):
            return tuple(_convert(where, item, arguments[0]) for item in value)
    elif hint is float or hint is int:
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError, ValueError):  # inf, nan, 10**400
                if hint is float or value == int(value):
                    return hint(value)
    elif isinstance(value, hint):
        return value
    allowed = (
        getattr(hint, "__name__", None) if origin is None else str(hint).replace("typing.", "")
    )
    raise UserError(f"{where} must be {allowed}, not {value!r}")


@dataclass(frozen=True)
class PromptSettings(Settings):
    """Where one prompt set comes from.

    source: the name of an embedded world, a file, lists of files by name, or the prompts themselves
    as a list. count: number of prompts, of each list by name; None: all there are.
    seed: of the sampling.
    column: of the prompts in a table; None: as `rocm_core.prompts.lists.COLUMNS` has it.
    first: of each list only so many.
    template: every combination of lists: "{animal:a} {activity}", `:a` for the article.
    duplicates: what counts as one prompt: equal texts, or those that differ in form only.
    held_out: embedded world only: captions that none of its models was trained on.
    containing, without: only prompts with one of these words, or with none of them.
    overlap: prompts shared with the training prompts are refused, dropped or allowed.
    """

    source: str | dict | tuple[str, ...]
    count: int | dict | None = None
    seed: int = 0
    column: str | None = None
    first: int | None = None
    template: str | None = None
    duplicates: Literal["exact", "normalised"] = "exact"
    held_out: bool = False
    containing: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    overlap: Literal["refuse", "drop", "allow"] = "refuse"

    @property
    def is_spelled_out(self) -> bool:
        """Are the prompts in the configuration itself?"""
        return isinstance(self.source, tuple)

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """The files of each list by its name, which is empty where there is only one."""
        if isinstance(self.source, dict):
            given = self.source.items()
            return {k: (v,) if isinstance(v, str) else tuple(v) for k, v in given}
        return {"": self.source if isinstance(self.source, tuple) else (self.source,)}

    @property
    def files(self) -> list[str]:
        """All files of the lists; the name of an embedded world is among them."""
        return [] if self.is_spelled_out else [f for part in self.lists.values() for f in part]

    @property
    def named(self) -> str:
        """The source in a sentence."""
        return ", ".join(self.files) or "prompts"

    @property
    def most(self) -> int | None:
        """The number of prompts, if the settings tell."""
        return sum(self.count.values()) if isinstance(self.count, dict) else self.count


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The model that `load_policy` loads: `chain` over the networks in the local folder `model`,
    into which the LoRA in the folder `model_lora`, if any, is merged.

    guidance_scale: diffusers' convention, ε_uncond + scale·(ε_cond - ε_uncond); equation 4 of the
    paper and the LCM paper count from zero: their ω is `guidance_scale - 1`.
    policy: its name in the configuration.
    """

    policy: str
    chain: str
    model: str
    inference_steps: int
    guidance_scale: float
    model_lora: str | None = None

    @property
    def weights(self) -> list[str]:
        """The local weights that are loaded."""
        return [path for path in (self.model, self.model_lora) if path]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ModelSettings):
    """How images are made from prompts; the noise of an image depends on (seed, prompt id) only."""

    seed: int = 1000
    batch_size: int = 50


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ModelSettings):
    """Everything one cell of the grid really uses; workflow/schemas/ documents each key.

    `scorer` is the local weights path of the reward, or None; `prompts` names the prompt set that is
    trained on; `batch_size` is per process; `beta` weighs the divergence in equation 10 of the
    paper; the optimiser is AdamW. Settings that an algorithm does not use keep their defaults.
    """

    reward: str
    scorer: str | None
    algorithm: str
    divergence: str
    beta: float | Literal["auto"]
    learning_rate: float
    batch_size: int
    iterations: int
    lora_targets: tuple[str, ...]
    snapshot_every: int
    seed: int
    prompts: str = "train"
    beta_calibration_steps: int = 20
    reduction: Literal["sum", "mean"] = "sum"
    reference_gradient: Literal["full", "stop"] = "full"
    warmup_steps: int = 0
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    accumulation_steps: int = 1
    images_per_prompt: int = 1
    updates_per_iteration: int = 1
    inner_epochs: int = 1
    ratio_clip: float = 1e-4
    advantage_clip: float = 10.0
    prompt_buffer: int = 32
    prompt_buffer_minimum: int = 16
    horizon: Literal["stochastic", "released"] = "stochastic"
    value_learning_rate: float = 1e-4
    value_updates: int = 5
    lora_rank: int = 16
    lora_alpha: float = 32.0
    ema_decay: float | None = None
    memory: float | Literal["auto"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False

    @property
    def weights(self) -> list[str]:
        """The local weights that are loaded."""
        return [path for path in (self.model, self.model_lora, self.scorer) if path]

    @property
    def snapshot_steps(self) -> list[int]:
        """Steps after which a snapshot is kept: multiples of `snapshot_every`, and the last one."""
        if not self.snapshot_every:
            return []
        steps = range(self.snapshot_every, self.iterations, self.snapshot_every)
        return [*steps, self.iterations]
