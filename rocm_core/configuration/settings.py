"""Typed settings of one job. They travel as JSON in `params:`, and hold all that the job uses."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rocm_core.configuration.fields import (
    AT_ONE,
    FILLED,
    IF_SET,
    OPTIONAL,
    Gamma,
    Guidance,
    LoraScale,
    Name,
    OrNull,
    Path,
    PluginName,
    Resolution,
    Seed,
    Steps,
    Timesteps,
    Whole,
    items,
    number,
    schema_of,
    text,
    validate,
)
from rocm_core.errors import UserError


class Settings(BaseModel):
    """A frozen part of the configuration or of a job: each field with type, bounds and description.

    Types are strict: no text stands for a number, no truth for a count, but 1 is a float too.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values (tuples become lists)."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings in `values`; raises `UserError` on an unknown, missing or ill-typed key."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            validate(plain, schema_of(cls))
            raise UserError(f"{cls.__name__}: {error}") from None


Scorers = PluginName | Annotated[tuple[PluginName, ...], items(1)]
_Count = Annotated[Whole, number(1, 10_000_000, "prompts")]
_Files = Annotated[tuple[Path, ...], items(1)]
_Prompts = Annotated[tuple[Annotated[str, text("a prompt", 10_000)], ...], items(1)]
_Words = Annotated[tuple[Annotated[str, text("a word", 60, r"^\w+$")], ...], items()]
_Pair = Annotated[tuple[str, str], items(allowed="a list of two different names")]


class PromptSettings(Settings):
    """A prompt set."""

    source: Path | _Prompts | Annotated[dict[Name, Path | _Files], FILLED]
    """`shapes`; a file: .txt (one per line), .json (a list of texts or objects), .csv, .tsv
    (without quotes), .parquet or .jsonl (one object per line, whose `id` is kept if it has one);
    files, or lists of files, by a name that becomes the prompts' `source`; or the prompts
    themselves as a list."""
    count: _Count | Annotated[dict[Name, _Count], FILLED] | None = None
    """Number of prompts, sampled from a file without replacement; of lists with names, the number
    of each by its name; null takes all there are."""
    seed: Seed = 0
    """Seed of the sampling."""
    column: Annotated[str, text("a column's name", 200)] | None = None
    """The column of a table, or the key of a list's objects, that holds the prompts; null: caption,
    prompt or text, in this order, and text, prompt or caption in a .jsonl file."""
    first: _Count | None = None
    """The number of prompts to take from the beginning of each list; null: all."""
    template: Annotated[str, text("a text with a field in braces for each list")] | None = None
    """Makes a prompt of every combination of the named lists: `{animal:a} {activity}`, where `:a`
    stands for the article. null: the lists follow one another."""
    duplicates: Literal["exact", "normalised"] = "exact"
    """What is left out as a duplicate of an earlier prompt: `exact`, an equal text; `normalised`,
    one that differs in case, punctuation, spacing and width only."""
    held_out: bool = False
    """Shapes world: draw captions that none of its models was trained on."""
    containing: _Words = ()
    """Only prompts with at least one of these words; empty: any."""
    without: _Words = ()
    """Only prompts with none of these words."""
    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """What becomes of prompts of a set to evaluate on that are among those trained on, whatever
    their case and punctuation: `refuse` ends the run with a sentence, `drop` leaves them out,
    `allow` keeps them, to see a model where it was trained. A world avoids them anyway, unless they
    are allowed."""


class StudySettings(Settings):
    """The user study that `snakemake study` builds."""

    comparisons: Annotated[tuple[_Pair, ...], items(1)]
    """What is compared with what: names of two cells, `<reward>/<method>/seed-<n>`, or of bases,
    `base-<policy>`. `<reward>/rocm-best/seed-<n>` is the best ROCM cell of that reward and seed,
    with a divergence or without: the one that held-out scorers prefer on one half of the validation
    prompts, none of which is shown. All comparisons are mixed on one page."""
    prompts: Name = "validation"
    """The prompt set whose images are shown."""
    pairs: Annotated[Whole, number(1, 100_000, "pairs")] = 300
    """Prompts, and so pairs of images, of each comparison."""
    shares: dict[str, Annotated[float, Field(gt=0, le=1_000_000)]] = {}
    """How many of the prompts come from each source, as the prompts' field `source` names it, in
    proportion; empty: from any. The paper shows PartiPrompts and HPSv2 as 1 : 2."""
    seed: Seed = 0
    """Seed of the choice of prompts. What decides sides, order and names is secret."""
    raters: Annotated[Whole, number(1, 10_000, "raters")] = 10
    """Raters, each with a link of their own."""
    ties: bool = True
    """May a rater see no difference? A tie counts as half a win."""


class Contest(Settings):
    """A model of the user study that is the best of several."""

    reward: str
    """What all were trained on."""
    used: Annotated[tuple[str, ...], Field(strict=False, exclude_if=lambda value: not value)] = ()
    """The scorers that their trainings used, if these are others."""
    base: str
    """File of the scores of the model that all started from, on the validation prompts."""
    scores: dict[str, str]
    """{cell: file of its scores}."""
    missing: Annotated[tuple[str, ...], items()] = ()
    """Cells without images or scores (partial)."""


class ProgressSettings(Settings):
    """What can be seen of a training while it runs; no result depends on it."""

    seconds: Annotated[float, number(0, 86_400, "seconds")] = 5.0
    """Seconds between two lines about a training, in its log and on the terminal, which are also
    those between two updates of its live `history.csv`."""
    preview: Annotated[Whole, number(0, 1000, "prompts")] = 8
    """The first training prompts, of which each snapshot draws sample images; 0: none."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], items()] = ()
    """Experiment trackers that follow each training, `tensorboard` and `wandb`, in an environment
    with `rocm-core[trackers]`; offline, unless `WANDB_MODE` says otherwise."""


class ModelSettings(Settings):
    """The model that `load_policy` loads: a chain over the networks in a local folder.

    The guidance scale is diffusers', ε_uncond + scale·(ε_cond - ε_uncond); equation 4 of the paper
    and the LCM paper count from zero: their ω is `guidance_scale - 1`.
    """

    policy: str = "consistency"
    """Its name in the configuration."""
    chain: str = "lcm"
    """Name of the chain."""
    model: str
    """Local folder of its weights."""
    inference_steps: Steps
    """Steps K of its chain."""
    guidance_scale: Guidance
    """Guidance scale."""
    gamma: Annotated[Gamma | None, IF_SET] = None
    """Share γ of a step that draws anew, for the chain `tcd`; null: its default."""
    timesteps: Annotated[Timesteps | None, IF_SET] = None
    """Timesteps of the chain; null: those of the model's scheduler."""
    model_lora: str | None = None
    """Folder of a LoRA that is merged into the model."""
    resolution: Resolution | None = None
    """Width and height of its images; null: what its own configuration says."""

    @property
    def weights(self) -> list[str]:
        """The local weights that are loaded."""
        return [path for path in (self.model, self.model_lora) if path]


class GenerationSettings(ModelSettings):
    """How images are made from prompts; the noise of an image depends on (seed, prompt id) only."""

    seed: Seed = 1000
    """Seed of the noise."""
    batch_size: Annotated[Whole, number(1, 100_000, "images")] = 50
    """Images made at once."""
    lora_scale: Annotated[LoraScale, AT_ONE] = 1.0
    """Factor of what the adapter changes."""


class Ensemble(Settings):
    """A training reward made of several scorers, each in standard deviations of the base's scores
    on the training prompts."""

    of: Annotated[
        dict[PluginName, Annotated[float, number(1e-9, 1e9)]],
        Field(min_length=2),
    ]
    """Its scorers, all of them metrics too, and their weights in the sum, 1 for the other ways to
    combine them."""
    combine: Literal["sum", "minimum", "mean_minus_std"] = "sum"
    """`sum`, weighted; `minimum`, the worst score; `mean_minus_std`, the mean less `deviations`
    standard deviations over the scorers, which counts their disagreement as a loss."""
    deviations: Annotated[float, number(0, 1000)] = 1.0
    """With `mean_minus_std`: how many standard deviations."""


class CellSettings(ModelSettings):
    """What a cell is: its place in the grid decides these settings, no section names them."""

    reward: str
    """Name of the reward."""
    scorer: str | None = None
    """Local weights of the reward."""
    ensemble: Annotated[Ensemble | None, IF_SET] = None
    """What the reward consists of; null: it is a scorer."""
    scorers: Annotated[dict[str, str | None] | None, IF_SET] = None
    """Local weights of the scorers beside the reward's own: those of an ensemble."""
    algorithm: str = "direct"
    """Name of the update rule."""
    divergence: str = "none"
    """Name of the divergence to the reference, or `none`."""
    seed: Seed = 0
    """Seed of the run."""


class BetaTarget(Settings):
    """A β that a controller adapts during training, so that the divergence stays at a target."""

    model_config = ConfigDict(json_schema_extra={"allowed": "{target: divergence, start: β}"})

    target: Annotated[float, number(1e-12, 1e9, "nats")]
    """The divergence to hold, as the history's column `divergence` has it: summed over the chain's
    stochastic steps, of squared distances that `reduction` sums or averages."""
    start: Annotated[float, number(1e-9, 1e9, "reward per nat")]
    """The first β."""


class Search(Settings):
    """Values of a setting, each tried in a shorter training; the final one takes what held-out
    scorers prefer."""

    model_config = ConfigDict(json_schema_extra={"allowed": "{search: [values], iterations: n}"})

    search: Annotated[tuple[Annotated[float, number(0, 1e9)], ...], items(2)]
    """The values; what is best at an end of them may lie beyond."""
    iterations: Annotated[Whole, number(1, 100_000_000, "steps")]
    """Iterations of each of the shorter trainings."""


class TrainingSettings(CellSettings):
    """What every algorithm's training uses; an algorithm adds its own in `Settings` beside it.

    backpropagates: through the reward and the whole trajectory, as `BackpropagationSettings` say.
    regularises: subtracts β times a divergence from what it maximises, as `RegularisedSettings` do.
    learns_from_noise: from the steps of the chain that draw noise, as policy gradients do.
    least_images_per_prompt: in an iteration; more than one where images of a prompt are compared.
    """

    backpropagates: ClassVar[bool] = False
    regularises: ClassVar[bool] = False
    learns_from_noise: ClassVar[bool] = False
    least_images_per_prompt: ClassVar[int] = 1
    prompts: Name = "train"
    """Prompt set to train on."""
    beta: Annotated[float, number(0, 1e9, "reward per nat")] | BetaTarget | Search
    """Weight of the divergence in equation 10: a number; values to search, as the paper did for
    every reward and divergence; or a target for the divergence and the β with which a controller
    starts. A method with a divergence needs it; without one there is none.
    PPO weighs against normalised advantages, so its β does not depend on the reward's scale. For
    D3PO it is the β of its preference loss."""
    learning_rate: Annotated[float, number(0, 1000)] | Search = 6e-5
    """AdamW's learning rate, or values to search."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """What follows the warm-up: `linear` falls to `learning_rate_end` after the last step."""
    learning_rate_end: Annotated[float, number(0, 1)] = 0.0
    """With a linear schedule: the share of `learning_rate` at which it ends."""
    warmup_steps: Annotated[Whole, number(0, 1_000_000_000, "steps")] = 0
    """Steps over which the learning rate rises from 0."""
    adam_betas: Annotated[
        tuple[
            Annotated[float, number(0, 0.999999999)],
            Annotated[float, number(0, 0.999999999)],
        ],
        items(0, "a list of two numbers from 0 to below 1", distinct=False),
    ] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    adam_epsilon: Annotated[float, number(0, 1)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, number(0, 1000)] = 0.0
    """AdamW's weight decay."""
    gradient_clip: Annotated[float, number(0, 1e9)] | None = 1.0
    """Largest norm of the LoRA's gradient; null does not clip."""
    batch_size: Annotated[Whole, number(1, 100_000, "images")] = 1
    """Images per batch and process."""
    accumulation_steps: Annotated[Whole, number(1, 100_000, "batches")] = 1
    """Batches of an iteration. ROCM adds up their gradients; policy gradients also normalise
    rewards over them."""
    images_per_prompt: Annotated[Whole, number(1, 100_000, "images")] = 1
    """Images of the same prompt in a row, each from its own noise; it must divide the images of an
    iteration, `batch_size` × `accumulation_steps`, and may span batches. D3PO needs an even number
    of them, and in a batch."""
    iterations: Annotated[Whole, number(1, 100_000_000, "steps")] = 10_000
    """Iterations: each samples `accumulation_steps` batches and learns from them. For ROCM an
    iteration is one step of the optimiser."""
    inference_steps: Annotated[Steps, OrNull]
    """Steps K of the policy's chain in training; null takes the policy's."""
    guidance_scale: Annotated[Guidance, OrNull]
    """Guidance scale in training and in the samples of the trained model; null takes the
    policy's."""
    lora_rank: Annotated[Whole, number(1, 10_000)] | Search = 16
    """Rank of the LoRA, or values to search."""
    lora_alpha: Annotated[float, number(1e-9, 1e6)] = 32.0
    """Scale of the LoRA, which counts alpha / rank."""
    lora_targets: Annotated[
        tuple[
            Annotated[str, text("the name of a module, such as to_q", None, r"^[A-Za-z0-9_.]+$")],
            ...,
        ],
        items(1),
    ] = ("to_q", "to_k", "to_v", "to_out.0")
    """Names, or endings of names, of the network's modules that get a LoRA."""
    init_lora: Annotated[Path | None, Field(exclude_if=lambda path: path is None)] = None
    """A file `lora.safetensors` or a snapshot to start from, with the same rank, alpha and targets;
    null starts from the base. The reference of the divergence starts as the base either way."""
    ema_decay: Annotated[float, number(0, 1, "per step")] | None = None
    """Decay of the exponential moving average of the LoRA that is saved; null keeps none."""
    reference_reset: Annotated[
        Annotated[Whole, number(1, 100_000_000, "steps")] | None, OPTIONAL
    ] = None
    """Iterations after which the policy of then becomes the reference of the divergence, again and
    again; null: the reference stays the base, but for `reference_decay`."""
    reference_decay: Annotated[
        Annotated[float, number(0, 0.999999999, "per step")] | None, OPTIONAL
    ] = None
    """Decay of the exponential moving average of the LoRA that is the reference of the divergence,
    from the base on; null: the reference stays the base, but for `reference_reset`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the passes; `auto` is bfloat16 on a device that has it. The LoRA is always
    float32."""
    snapshot_every: Annotated[Whole, number(0, 1_000_000_000, "steps")] = 0
    """Steps between snapshots of the LoRA, the last step included; 0 keeps none."""
    snapshot_at: Annotated[
        Annotated[
            tuple[Annotated[Whole, number(1, 1_000_000_000, "steps")], ...],
            items(1, "a list of distinct steps"),
        ]
        | None,
        OPTIONAL,
    ] = None
    """Further steps after which a snapshot is kept, as of a training that goes far in its first
    ones; null: none."""
    stop_by: Annotated[Scorers | None, OPTIONAL] = None
    """One or several scorers that stop a training early, in hindsight: the images that are scored
    are those of `best.safetensors`, the snapshot that they prefer on some of the training prompts.
    They count as used: no table evaluates the training by them. null: the last step counts."""

    @property
    def weights(self) -> list[str]:
        """The local weights that are loaded."""
        scorers = (self.scorers or {}).values()
        paths = (self.model, self.model_lora, self.scorer, *scorers, self.init_lora)
        return [path for path in paths if path]
