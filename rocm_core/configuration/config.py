"""The configuration of a grid, section by section: what a valid one holds."""

import functools
import json
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, WithJsonSchema

from rocm_core.configuration.fields import (
    AT_ONE,
    FILLED,
    IF_SET,
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
    having,
    items,
    number,
    text,
)
from rocm_core.configuration.settings import (
    Ensemble,
    ProgressSettings,
    PromptSettings,
    Settings,
    StudySettings,
)

# Settings of training; `rocm_core.configuration.schema` says which there are.
_Layer = Annotated[dict[str, Any], WithJsonSchema({"type": "training"})]
_NUMBERS = {"type": "array", "items": {"type": "number"}, "allowed": "a list of numbers"}
_Value = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": ["number", "string", "boolean", "null"]}, _NUMBERS]}),
]
_Names = Annotated[tuple[PluginName, ...], items(1)]


class PolicySettings(Settings):
    """A base model."""

    model: Path
    """Local folder of the base model in diffusers' layout."""
    chain: PluginName | None = None
    """Chain that its samples take: a module of `rocm_core/policies/chains/`, or `package.module` of
    your own; null: `ddim` for the policy `diffusion`, for others the one that belongs to the
    model's scheduler, else `lcm`."""
    gamma: Annotated[Gamma | None, IF_SET] = None
    """Chain `tcd`: the share γ of a step that draws anew, 0 for none; null: 0.3."""
    timesteps: Annotated[Timesteps | None, IF_SET] = None
    """Chains `lcm` and `tcd`: the K timesteps of the steps, falling, as DMD2 has them; null: those
    of the scheduler."""
    steps: Steps
    """Steps K of its chain."""
    guidance_scale: Guidance
    """Guidance scale as diffusers counts it: a consistency model gets it less 1 through its
    embedding. The paper's equation 4 guides with 1 + ω."""
    lora: Path | None = None
    """Folder of a LoRA, `pytorch_lora_weights.safetensors`, to be merged into the network: LCM-LoRA
    makes a diffusion model a consistency model, whose scheduler is then diffusers' LCMScheduler and
    whose guidance is classifier-free; it is made for a `guidance_scale` of 1, which is none."""


class Sweep(Settings):
    """Cells in which `setting` takes each of `values`."""

    rewards: _Names | None = None
    """Rewards to sweep; null: all."""
    methods: _Names
    """Methods to sweep."""
    setting: str
    """A key of `training`."""
    values: Annotated[tuple[_Value, ...], items(1)]
    """Its values."""
    cross: dict[str, Annotated[tuple[_Value, ...], items(1)]] | None = None
    """Further settings of `training` and their values: every combination is a cell."""


class Generation(Settings):
    """How the images that are scored are made."""

    seed: Seed = 1000
    """Seed of the images' noise, which depends on the seed and the prompt's id only."""
    batch_size: Annotated[Whole, number(1, 100_000, "images")] = 50
    """Images made at once. Their noise does not depend on it; rounding does, by at most the last
    bit of a pixel, so that another value makes all images again."""
    inference_steps: Steps | Annotated[tuple[Steps | None, ...], items(1)] | None = None
    """Steps of the policy's chain; null takes what all cells of the policy are trained with, or the
    policy's where they differ. Of a list the first makes the images
    that tables and figures use; at the others the validation prompts are drawn too, for reward
    against inference time."""
    lora_scale: Annotated[LoraScale | Annotated[tuple[LoraScale, ...], items(1)], AT_ONE] = 1.0
    """How strong the adapters of trained models are where images are made: 0 is the base, 1 what
    was trained. Of a list the first makes the images that tables and figures use; at the others the
    validation prompts are drawn too, at the first number of steps, to see what a weaker or stronger
    adapter is worth."""


class Snapshots(Settings):
    """Evaluating snapshots, to see the reward and the gold judge over training."""

    prompts: Annotated[Whole, number(0, 1_000_000_000, "prompts")] = 64
    """The first validation prompts on which each snapshot is evaluated; all if there are fewer;
    0 evaluates none."""
    stop_prompts: Annotated[
        Whole, number(1, 1_000_000_000, "prompts"), Field(exclude_if=lambda value: value == 64)
    ] = 64
    """The first training prompts on which the scorers of `stop_by` judge each snapshot; all if
    there are fewer."""


class Gradients(Settings):
    """Measuring how far the gradients of single images scatter, where trainings start and end."""

    methods: Annotated[tuple[PluginName, ...], items()] = ()
    """Methods, in the spelling of their folders, whose gradients are compared with each other on
    the same images at the same weights: where all their trainings start and where each of them
    ends. None: nothing is measured."""
    images: Annotated[Whole, number(4, 1_000_000, "images")] = 64
    """Images whose gradients are taken; a multiple of `images_per_prompt`, twice it at least."""
    images_per_prompt: Annotated[Whole, number(2, 100_000, "images")] = 8
    """Images of each prompt, an even number: algorithms normalise their rewards, or pair them."""


class Resources(Settings):
    """What a job asks of the machine; no result depends on it."""

    threads: Annotated[Whole, number(1, 1024, "threads")] = 1
    """CPU threads of a job."""
    gpus: Annotated[Whole, number(0, 64, "GPUs")] = 0
    """GPUs of a training, with a process and a `batch_size` for each; images and scores use one at
    most. A job fails where torch cannot use as many; with 0 it takes what it finds."""
    gres: (
        Annotated[str, text("a kind of GPU such as gpu:a100", 100, r"^\w+(:[\w.-]+)?$")] | None
    ) = None
    """GPUs in the form that a site wants them asked for: null as `--gpus=2`, `gpu:a100` as
    `--gres=gpu:a100:2`."""
    memory_gib: Annotated[float, number(0.5, 100_000, "GiB")] = 4.0
    """Memory of a job."""
    keep_states: bool = False
    """Keep the state of finished trainings, about three times the size of their LoRA, so that they
    go on where they ended once `iterations` is raised. The learning rate must be constant."""
    runtime_minutes: Annotated[Whole, number(1, 1_000_000, "minutes")] = 60
    """Time limit of a job."""

    def request(self, gpus: int) -> dict[str, Any]:
        """What a rule asks Snakemake for, to get a job so many GPUs."""
        return {"gpu": 0, "gres": f"{self.gres}:{gpus}"} if self.gres and gpus else {"gpu": gpus}


class Weights(Settings):
    """Where weights are fetched from."""

    endpoint: Annotated[str, text("a URL", None, "^https?://[^ ]+$")] | None = None
    """Another endpoint of the Hugging Face hub, such as a mirror's; null: the hub's own, or
    `HF_ENDPOINT`."""
    mirror: Annotated[str, text("a path", None)] | None = None
    """A folder laid out as `weights/`, from which files are copied instead; null: none."""


class Config(Settings):
    """A checked configuration with every default filled in.

    `training` holds every training setting but those without a default that was not given (`beta`).
    """

    # Sections that change no result, so that nothing runs again when they change.
    PLUMBING: ClassVar = ("progress", "resources", "weights", "shards")

    name: Name
    """Name of the grid: everything it produces goes to `results/<name>/`."""
    world: Literal["shapes", "paper"] = "shapes"
    """`shapes`, the embedded world with its prompts and its gold judge, or `paper`, the published
    models and prompts."""
    policies: Annotated[dict[Name, PolicySettings], FILLED]
    """The base models: `consistency` and `diffusion`, which the methods with short names use, and
    any others that a method names: `direct-flux-kl` is ROCM on `flux`."""
    resolution: Resolution | None = None
    """Width and height of all images, in training and in evaluation, whatever the policy; `make
    preflight` compares it with what the base models are made for. null: the size in each base
    model's own configuration, which must be the same for all."""
    scorers: Annotated[dict[PluginName, Path | None], FILLED]
    """Scorers, named after their modules in `rocm_core/rewards/` or a module of your own package,
    `package.module`, and the local folder or file of their weights; null for one that needs
    none."""
    prompts: Annotated[
        dict[Name, PromptSettings],
        having(train="Training prompts.", validation="Validation prompts."),
    ]
    """Prompt sets: those to train on, and any number to evaluate on. Images of the validation
    prompts fill the tables; those of further sets show what holds on other prompts."""
    ensembles: Annotated[dict[Name, Ensemble], Field(exclude_if=lambda value: not value)] = {}
    """Training rewards that combine several scorers, by the names that `rewards` and `cells` use
    for them."""
    rewards: _Names
    """Training rewards: names of scorers or of `ensembles`."""
    methods: Annotated[dict[PluginName, _Layer], FILLED]
    """Training methods and, for each, settings that differ from `training`. `rocm-<divergence>` is
    ROCM with a module of `rocm_core/divergences/`, `rocm-none` without one; `rlcm`, `ddpo`, `dpok`
    and `d3po` are the baselines. Any other pairing is `<algorithm>-<policy>-<divergence>`, modules
    of `rocm_core/` or, as `package.module`, of your own package, `-none` left out. `reverse-kl` is
    another name of `kl`."""
    seeds: Annotated[tuple[Seed, ...], items(1)] = (0,)
    """Seeds of training: each is a cell of its own."""
    training: _Layer = {}
    """Settings of training shared by all cells. A method uses those that its algorithm has."""
    cells: Annotated[
        dict[str, _Layer | None],
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "training"}}),
    ] = {}
    """Settings of single cells, `<reward>/<method>`, over those of the method; null: there is no
    such cell. `<reward>` alone holds settings of all its cells: one without effect on a method is
    ignored there."""
    sweeps: Annotated[tuple[Sweep, ...], items(distinct=False)] = ()
    """Further cells, in which one setting takes each of several values. Their method is
    `<method>--<setting>-<value>`. They are evaluated on the validation prompts, at the first number
    of inference steps."""
    generation: Generation = Generation()
    """How the images that are scored are made."""
    snapshots: Snapshots = Snapshots()
    """Evaluating snapshots, to see the reward and the gold judge over training."""
    base_rewards: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Score what the base makes of the prompts and the noise of each training. Curves of rewards
    against their cost, and the claims about these, then show what a training gained over the base,
    and do not follow the prompts that it happened to draw."""
    gradients: Annotated[Gradients, Field(exclude_if=lambda value: value == Gradients())] = (
        Gradients()
    )
    """Measuring how far the gradients of single images scatter, where trainings start and end."""
    metrics: Annotated[_Names, OrNull]
    """Scorers that measure the images; null: all of `scorers`."""
    efficiency_overlay: Path | None = None
    """Published training curves to draw beside ours in the efficiency figure: a CSV file with the
    header `x_axis,task,method,x,y`, of which the rows with x_axis `reward_queries` are drawn; a
    task is a reward's name, or RLCM's `compression_neg_kb`, `incompression_kb`, `laion_aesthetic`
    or `llava13b_alignment`. Null: none."""
    study: StudySettings | None = None
    """The user study that `snakemake study` builds: people compare the images of pairs of models,
    blind. null: there is none."""
    published: Annotated[tuple[Literal["hpsv2", "hpsv2_0", "imagereward"], ...], items()] = ()
    """Metrics whose published package scores the final images beside our own scorer: `hpsv2`,
    `hpsv2_0` and `imagereward`, in the environment that `make judges` makes. Tables and figures
    then show the package's scores; training and snapshots use ours."""
    resources: Resources = Resources()
    """What a job asks of the machine. Nothing here changes a result or makes a job run again, but
    for several GPUs."""
    weights: Weights = Weights()
    """Where `snakemake weights` fetches from. Nothing here changes a result or makes a job run
    again."""
    progress: ProgressSettings = ProgressSettings()
    """What can be seen of a training while it runs. Nothing here changes a result or makes a job
    run again."""
    shards: Path | None = None
    """Folder of small files of finished cells and bases, which `make shards` writes and git keeps:
    histories, scores and manifests, without LoRAs and images. What is there is not made again;
    null: none."""
    partial: bool = False
    """Render tables and figures from the cells that exist and mark the gaps, instead of making the
    missing cells."""

    @property
    def root(self) -> FilePath:
        """Where the results go."""
        return FilePath("results") / self.name

    def scorer_paths(self) -> dict[str, str | None]:
        """{metric: local weights} of the scorers that measure images."""
        return {metric: self.scorers[metric] for metric in self.metrics}

    def members(self, reward: str) -> tuple[str, ...]:
        """The scorers of a training reward: those of an ensemble, or itself."""
        return tuple(self.ensembles[reward].of) if reward in self.ensembles else (reward,)

    @functools.cached_property
    def _text(self) -> str:
        return json.dumps(self.to_dict())  # in the order of the file, which is that of the methods

    def model_copy(self, **options: Any) -> Self:
        """pydantic's copy, without the text by which configurations are told apart: it would make
        one with an `update` equal to this, whose grid would then be taken for its own."""
        copy = super().model_copy(**options)
        copy.__dict__.pop("_text", None)
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
