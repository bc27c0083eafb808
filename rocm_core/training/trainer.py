"""A training run in memory: policy, adapter, reward, optimiser, and what it has seen so far.

All randomness is a pure function of (seed, position in the run), see `noise`: a resumed run needs
no generator's state, and equals the uninterrupted one bit for bit on the CPU.
"""

import functools
import math
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from rocm_core.algorithms import (
    BackpropagationSettings,
    Batch,
    Statistics,
    load_algorithm,
)
from rocm_core.configuration import BetaTarget, TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid import Standards, gating, standardised, state_settings
from rocm_core.jobs import private_folder
from rocm_core.policies import (
    ActivationCheckpointing,
    add_adapter,
    add_reference,
    compile_network,
    integer,
    load_lora,
    load_policy,
    lora_alpha,
    lora_parameters,
    permutation,
    save_lora,
    uncompiled,
)
from rocm_core.prompts import Prompt
from rocm_core.provenance import digest_of, located
from rocm_core.rewards import Reward, check_first_scores, load_reward
from rocm_core.training.controller import BetaController
from rocm_core.training.disagreement import DisagreementGate
from rocm_core.training.ensemble import EnsembleReward
from rocm_core.training.memory import plan_checkpointing
from rocm_core.training.optimiser import AdapterOptimiser

Row = dict[str, float | None]


class Trainer:
    """`iterate` does one iteration of the algorithm; `state_dict` holds all that a resume needs.

    fingerprint: of the code; a state is taken back only by a run of the same settings and code.
    reward: in place of the scorer that `settings.reward` names. standards: of the scorers that are
    `standardised`.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        prompts: Sequence[Prompt],
        fingerprint: str,
        accelerator: Any,
        reward: Reward | None = None,
        standards: Standards | None = None,
    ) -> None:
        self.settings, self.prompts, self.accelerator = settings, prompts, accelerator
        self.identity = {
            **state_settings(settings),
            "fingerprint": fingerprint,
            # What they say, not the name of their set.
            "prompts": digest_of({f"{place} {p.id}": p.text for place, p in enumerate(prompts)}),
            "processes": accelerator.num_processes,
            **({"standards": standards} if standards else {}),
        }
        if lacking := [name for name in standardised(settings) if name not in (standards or {})]:
            raise UserError(
                f"{settings.reward} is standardised by the base's scores by {', '.join(lacking)}:"
                " measure them, and name their file with --standards"
            )
        self.device: torch.device = accelerator.device
        on_gpu = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        low = settings.precision == "bfloat16" or (settings.precision == "auto" and on_gpu)
        self.precision = torch.bfloat16 if low else torch.float32
        self.policy = load_policy(settings, self.device, self.precision)
        if settings.divergence != "none" or settings.learns_from_noise:
            divergence = settings.divergence != "none"
            what = f"the divergence {settings.divergence}" if divergence else settings.algorithm
            self.policy.chain.require_density(what)
        of_last = getattr(settings, "last_step_divergence", False)
        if settings.divergence != "none" and not len(self.policy.stds) and not of_last:
            raise UserError(
                f"the divergence {settings.divergence} is over the steps that draw noise, and this"
                " chain has none: raise inference_steps"
            )
        embeddings = self.policy.encode_prompts([prompt.text for prompt in prompts])
        self.embeddings = {name: part.cpu() for name, part in embeddings.items()}
        self.policy.denoiser.forget_text()
        self.reward = reward or self._load_reward(standards)
        parts = getattr(self.reward, "members", {settings.reward: self.reward})
        for name, one in parts.items():
            if reward or "." in name:  # the user's own
                check_first_scores(one)
        network, targets = self.policy.network, settings.lora_targets
        assert isinstance(settings.lora_rank, int)  # and not a search
        add_adapter(network, settings.lora_rank, settings.lora_alpha, targets, settings.seed)
        self.lora = lora_parameters(network)
        if settings.init_lora:
            self._start_from(located(settings.init_lora))
        self.reference: dict[str, torch.Tensor] | None = None  # the adapter of one that moves
        if settings.reference_reset is not None or settings.reference_decay is not None:
            self.reference = add_reference(network)
        if isinstance(settings, BackpropagationSettings) and settings.compile:
            # torch would run what it finds in a folder whose name anybody can guess.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_folder("rocm-inductor")))
            compile_network(network, self.device)
        self.step, self.training_seconds, self.reward_queries = 0, 0.0, 0
        # None: to be planned at the first batch
        self.activation_checkpointing: ActivationCheckpointing | None = None
        self.history: list[Row] = []
        self.snapshots: dict[int, str] = {}  # sha256 of the file after a step
        given = settings.beta
        self.controller = BetaController(given) if isinstance(given, BetaTarget) else None
        self.algorithm = load_algorithm(settings.model_copy(update={"beta": self.beta}))
        if gates := gating(settings):
            scorers = self._load_scorers(gates)
            self.algorithm.gate = DisagreementGate(
                settings.reward, scorers, standards or {}, getattr(settings, "gate_above", 0.0)
            )
        if self.controller and self.algorithm.divergence:
            steps = sum(self.algorithm.step_weights(self.policy))
            self.controller.require_reachable(self.algorithm.divergence, steps)
        self.optimiser = AdapterOptimiser(list(self.lora.values()), settings, accelerator)
        self.average: dict[str, torch.Tensor] | None = None
        if settings.ema_decay is not None:
            self.average = {name: value.detach().clone() for name, value in self.lora.items()}

    def _load_reward(self, standards: Standards | None) -> Reward:
        settings = self.settings
        if not settings.ensemble:
            return load_reward(settings.reward, settings.scorer, self.device)
        members = self._load_scorers([*settings.ensemble.of])
        return EnsembleReward(settings.reward, settings.ensemble, members, standards or {})

    def _load_scorers(self, names: Sequence[str]) -> dict[str, Reward]:
        """Scorers beside the reward's own."""
        paths = self.settings.scorers or {}
        return {name: load_reward(name, paths.get(name), self.device) for name in names}

    def _start_from(self, path: Path) -> None:
        """Give the adapter the values of a LoRA of its kind."""
        network, settings = self.policy.network, self.settings
        load_lora(network, path, self.policy.denoiser.lora_name)
        shapes = {name: value.shape for name, value in self.lora.items()}
        self.lora = lora_parameters(network)
        alike = shapes == {name: value.shape for name, value in self.lora.items()}
        if not alike or lora_alpha(network) != settings.lora_alpha:
            raise UserError(
                f"init_lora: {path} has another rank, alpha or other layers than lora_rank,"
                " lora_alpha and lora_targets say: set them to its own"
            )

    @property
    def beta(self) -> float:
        """The weight of the divergence, as the controller has it now where there is one."""
        return self.controller.beta if self.controller else self.settings.beta  # type: ignore[return-value]

    def begin(self, step: int) -> tuple[list[int], list[Batch]]:
        """Get ready for iteration `step`; returns what `batches` does."""
        key = f"{step}/{self.accelerator.process_index}"
        torch.manual_seed(integer(self.settings.seed, key, "training"))  # for algorithms that draw
        indices, batches = self.batches(step)
        self.reward.progress = (step - 1) / self.settings.iterations
        if self.activation_checkpointing is None:
            self.activation_checkpointing = plan_checkpointing(
                self.settings,
                self.algorithm.reference,
                self.policy,
                self.reward,
                batches[0],
                self.algorithm.differentiated_steps(self.policy),
            )
        self.policy.activation_checkpointing = self.activation_checkpointing
        return indices, batches

    def iterate(self, step: int) -> Row:
        """Iteration `step` (from 1); returns its row of the history."""
        began = self._clock()
        indices, batches = self.begin(step)
        learning_rate = self.optimiser.set_learning_rate(step)
        seen = self.algorithm.update(self.policy, self.reward, batches, self.optimiser)
        if self.average is not None and self.settings.ema_decay is not None:
            for name, value in self.average.items():
                value.lerp_(self.lora[name].detach(), 1 - self.settings.ema_decay)
        self._move_reference(step)
        row = self._means(step, seen, indices)
        processes = self.accelerator.num_processes
        self.training_seconds += self._clock() - began
        images = len(indices) * processes
        self.reward_queries += images * self.algorithm.scorings
        if self.controller:
            row["beta"] = self.beta
            self.algorithm.beta = self.controller.update(row["divergence"] or 0.0, images)
        row |= {
            "learning_rate": learning_rate,
            "training_seconds": round(self.training_seconds, 3),
            "reward_queries": self.reward_queries,
            "nfe": self.policy.nfe * processes,
            "peak_memory_gib": round(_peak_memory_gib(self.device), 3),
        }
        self.step = step
        self.history.append(row)
        return row

    @torch.no_grad()
    def _move_reference(self, step: int) -> None:
        """Let the reference follow the policy, as TR-DPO does (Gorbatovski et al. 2024, arXiv
        2404.09656): all the way after every so many iterations, or a little after each."""
        every, decay = self.settings.reference_reset, self.settings.reference_decay
        follow = 1 - decay if decay is not None else float(every is not None and step % every == 0)
        for name, value in (self.reference or {}).items() if follow else ():
            if follow == 1:
                value.copy_(self.lora[name])
            else:
                value.lerp_(self.lora[name], follow)

    def _clock(self) -> float:
        """Seconds: of the wall beside a GPU; on the CPU those that the process had a core for, over
        its threads, as other jobs share the machine."""
        if self.device.type == "cuda":
            return time.perf_counter()
        return time.process_time() / torch.get_num_threads()

    def batches(self, step: int) -> tuple[list[int], list[Batch]]:
        """This process's prompts (as indices) and batches of an iteration.

        The run is one long row of positions, with the prompts in a new order every epoch, dealt to
        accumulation steps, processes and batch entries: how an iteration is split into batches
        does not change what it is made of.
        """
        size, processes = self.settings.batch_size, self.accelerator.num_processes
        all_indices, batches = [], []
        for part in range(self.settings.accumulation_steps):
            earlier = (step - 1) * self.settings.accumulation_steps + part
            start = (earlier * processes + self.accelerator.process_index) * size
            positions, indices = range(start, start + size), []
            for position in positions:
                turn = position // self.settings.images_per_prompt
                epoch, place = divmod(turn, len(self.prompts))
                indices.append(_order(self.settings.seed, epoch, len(self.prompts))[place])
            noise = self.policy.noise(self.settings.seed, [str(p) for p in positions], "training")
            embeddings = {
                name: part[indices].to(self.device, non_blocking=True)
                for name, part in self.embeddings.items()
            }
            batches.append(Batch([self.prompts[i].text for i in indices], embeddings, noise))
            all_indices += indices
        return all_indices, batches

    def _means(self, step: int, seen: Sequence[Statistics], indices: Sequence[int]) -> Row:
        """Means over the images of all processes; raises `UserError` if a number is not finite."""
        per_image = {
            "reward": torch.cat([s.reward for s in seen]).float(),
            "loss": torch.stack([s.loss for s in seen]).float(),
            "divergence": torch.cat([s.divergence for s in seen]).float(),
        }
        names = [f"squared_distance_{self.policy.steps - i}" for i in range(len(self.policy.stds))]
        known = [s.squared_distances for s in seen if s.squared_distances is not None]
        columns = torch.cat(known).float().unbind(1) if known else ()
        distances = dict(zip(names, columns, strict=True)) if known else {}
        diagnostics = {
            name: torch.stack([s.diagnostics[name] for s in seen]).float()
            for name in seen[0].diagnostics
        }
        means = self._average(per_image | distances | diagnostics)
        norm = float(self.optimiser.gradient_norm)
        if not all(map(math.isfinite, [*means.values(), norm])):
            self._refuse(step, per_image["reward"] + per_image["divergence"], indices)
        return {
            "step": step,
            **{name: means[name] for name in per_image},
            "squared_distance": sum(means[name] for name in distances) if known else None,
            **{name: means.get(name) for name in names},
            "gradient_norm": norm,
            **{name: means[name] for name in diagnostics},
        }

    def _refuse(self, step: int, values: torch.Tensor, indices: Sequence[int]) -> NoReturn:
        """Name the prompts whose values (N,) are not finite; all of them where the gradient is."""
        bad = [i for i, value in zip(indices, values, strict=True) if not value.isfinite()]
        bad, indices = (self.optimiser.gather(list(places)) for places in (bad, indices))
        what = "reward or divergence" if bad else "gradient"
        culprits = ", ".join(self.prompts[i].id for i in bad or indices)
        raise UserError(
            f"the {what} is not finite at step {step}, prompt {culprits}: "
            "lower learning_rate, or check the reward on that prompt"
        )

    def _average(self, columns: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Means of columns over the images of all processes."""
        means = torch.stack([column.mean() for column in columns.values()])
        averaged = self.accelerator.reduce(means, "mean").tolist()
        return dict(zip(columns, averaged, strict=True))

    @torch.no_grad()
    def preview(self, count: int) -> Any:
        """Images `(n, H, W, 3)` of 8 bits, in NumPy, as the adapter that `export` writes now draws
        the first `count` prompts."""
        size, nfe, images = self.settings.batch_size, self.policy.nfe, []
        current = {name: value.detach().clone() for name, value in self.lora.items()}
        self._set_lora(self.average or current)
        shown = self.prompts[:count]
        for start in range(0, len(shown), size):  # no more memory than training
            part = slice(start, min(start + size, len(shown)))
            embeddings = {name: e[part].to(self.device) for name, e in self.embeddings.items()}
            keys = [prompt.id for prompt in shown[part]]
            noise = self.policy.noise(self.settings.seed, keys, "previews")
            with uncompiled(self.policy.network):
                latents = self.policy.rollout(embeddings, noise).latents
            images.append((self.policy.decode(latents) * 255).round().to("cpu", torch.uint8))
        self._set_lora(current)
        self.policy.nfe = nfe
        return torch.cat(images).permute(0, 2, 3, 1).numpy()

    @torch.no_grad()
    def _set_lora(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.lora[name].copy_(value)

    @torch.no_grad()
    def squared_distance_floor(self) -> float | None:
        """What rounding leaves in d² per latent dimension: of the difference of means at the last
        batch's states, the part that is not there in float32. None in float32, and where no
        distance was computed."""
        if self.precision == torch.float32 or self.algorithm.divergence is None:
            return None
        batch, nfe = self.batches(self.step)[1][0], self.policy.nfe
        steps = self.policy.rollout(batch.embeddings, batch.noise, "full").transitions
        self.policy.nfe = nfe
        exact, errors = self.policy.widened(), []
        embeddings = {name: part.float() for name, part in batch.embeddings.items()}
        for index, step in enumerate(steps):
            now = exact.reevaluate(index, step, embeddings, reference=True)
            errors.append(((step.change - now.change) / step.std).square().mean())
        return float(torch.stack(errors).mean()) if errors else None

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs: tensors and plain values."""
        return {
            "identity": self.identity,
            "counts": [self.step, self.training_seconds, self.reward_queries],
            "nfe": self.policy.nfe,
            "history": self.history,
            "controller": self.controller and self.controller.state_dict(),
            "activation_checkpointing": self.activation_checkpointing,
            "lora": {name: value.detach() for name, value in self.lora.items()},
            "adam": self.optimiser.state_dict(),
            "average": self.average,
            "reference": self.reference,
            "algorithm": self.algorithm.state_dict(),
            "snapshots": self.snapshots,
        }

    def load_state_dict(self, state: dict[str, Any], file: object = "the state") -> None:
        """Go on from `state`, read from `file`.

        Raises `UserError` if it belongs to other settings or other code, if anything is missing or
        does not fit, and if a number is not finite.
        """
        try:
            known = state["identity"]
            other = [key for key, value in self.identity.items() if known.get(key) != value]
            if not other:
                self._go_on(state, file)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"{file} is not a whole state of this training ({type(error).__name__}: {reason}):"
                " remove it to go on from the one before"
            ) from None
        if other:
            raise UserError(f"{file} was made with other {', '.join(other)}: remove it")

    def _go_on(self, state: dict[str, Any], file: object) -> None:
        """Take a state back; raises what comes up where it is not a whole one of this run."""
        for place, value in _numbers(state, "state"):
            if not torch.as_tensor(value).isfinite().all():
                raise ValueError(f"{place} is not finite")
        if state["counts"][0] > self.settings.iterations:
            raise UserError(
                f"{file} is of step {state['counts'][0]}, beyond iterations,"
                f" {self.settings.iterations}: remove its folder to train from the start"
            )
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"it holds {', '.join(state)}")
        self.step, self.training_seconds, self.reward_queries = state["counts"]
        if [row["step"] for row in state["history"]] != [*range(1, self.step + 1)]:
            raise ValueError(f"its history is not that of {self.step} steps")
        if any("training_seconds" not in row for row in state["history"]):
            raise ValueError("its history is of an earlier version, without training_seconds")
        _require_like("lora", state["lora"], self.lora)
        self._set_lora(state["lora"])
        self.optimiser.load_state_dict(state["adam"])
        self.algorithm.load_state_dict(state["algorithm"])
        if self.average is not None:
            _require_like("average", state["average"], self.average)
            self.average = {k: v.to(self.device) for k, v in state["average"].items()}
        if self.reference is not None:
            _require_like("reference", state["reference"], self.reference)
            with torch.no_grad():
                for name, value in state["reference"].items():
                    self.reference[name].copy_(value)
        self.policy.nfe = state["nfe"]
        self.history = state["history"]
        if self.controller:
            self.controller.load_state_dict(state["controller"])
            self.algorithm.beta = self.beta
        self.activation_checkpointing = state["activation_checkpointing"]
        self.snapshots = state["snapshots"]

    def export(self, path: Path) -> None:
        """Write the adapter, or its moving average where `ema_decay` is set."""
        network, name = self.policy.network, self.policy.denoiser.lora_name
        save_lora(path, network, self.average, name)


def _numbers(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """(place, value) of every tensor and number in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _numbers(part, f"{place}.{index}")
    elif isinstance(value, float | torch.Tensor):
        yield place, value


def _require_like(what: str, held: Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless tensors have the names and shapes of others."""
    if {k: v.shape for k, v in held.items()} != {k: v.shape for k, v in wanted.items()}:
        raise ValueError(f"its {what} does not fit the adapter")


def _peak_memory_gib(device: torch.device) -> float:
    """Most memory in use so far: the GPU's tensors, or the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return permutation(seed, str(epoch), count, "prompts")
