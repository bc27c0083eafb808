"""rocm_core's own trainer, its bare passes for the floor, and an account of where a step goes."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders.plain import perturb
from benchmarks.contenders.worker import count_passes, serve, synchronise
from rocm_core.algorithms import Batch
from rocm_core.configuration import settings_class
from rocm_core.policies import HIDDEN, ActivationCheckpointing, uncompiled
from rocm_core.prompts import Prompt
from rocm_core.training import Trainer, predict_peak

BEYOND = 10**8  # iterations, the most that a configuration may ask for: a schedule never ends


class Ours:
    """A training run of the setup's algorithm, as a job of the workflow does it."""

    def __init__(self, setup: dict[str, Any], device: torch.device) -> None:
        settings = settings_class(setup["algorithm"], "algorithm")(
            reward=setup["reward"],
            scorer=setup["scorer"],
            policy=setup["policy"],
            chain={"consistency": "lcm", "diffusion": "ddim"}[setup["policy"]],
            model=setup[setup["policy"]],
            inference_steps=setup["steps"],
            guidance_scale=setup["guidance_scale"],
            algorithm=setup["algorithm"],
            divergence=setup["divergence"],
            beta=setup["beta"],
            learning_rate=setup["learning_rate"],
            batch_size=setup["batch_size"],
            iterations=BEYOND,
            lora_targets=tuple(setup["targets"]),
            lora_rank=setup["rank"],
            lora_alpha=setup["alpha"],
            snapshot_every=0,
            seed=0,
            precision=setup["precision"],
            **({"prompt_buffer": 0} if setup["algorithm"] == "ppo" else {}),
            **setup.get("switches", {}),
        )
        prompts = [Prompt(str(i), text, "benchmark") for i, text in enumerate(setup["prompts"])]
        self.trainer = Trainer(
            settings, prompts, "benchmark", Accelerator(cpu=device.type == "cpu")
        )
        self.setup, self.device = setup, device
        # A GPU is waited for; of a shared processor only the own share counts.
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter
        self.parameters = list(self.trainer.lora.values())
        perturb(self.trainer.lora)
        self._turn(**setup.get("turned", {}))

    def _turn(
        self,
        activation_checkpointing: ActivationCheckpointing | None = None,
        fused: bool = True,
        channels_last: bool = False,
        halves: bool = False,
    ) -> None:
        """Turn what a configuration has no key for: for `compare`'s switches."""
        if activation_checkpointing:
            self.trainer.activation_checkpointing = activation_checkpointing
            self.trainer.policy.activation_checkpointing = activation_checkpointing
        if not fused:
            for group in self.trainer.optimiser.adam.param_groups:
                group["fused"] = None  # torch's default
        unet = self.trainer.policy.network
        if channels_last:
            unet.to(memory_format=torch.channels_last)
        if halves:
            unet.forward = in_halves(unet.forward)

    def step(self) -> float:
        row = self.trainer.iterate(self.trainer.step + 1)
        return float(row["loss"] or 0)

    def passes(self) -> int:
        with uncompiled(self.trainer.policy.network):
            return count_passes(self.trainer.policy.network, self.step)

    def facts(self) -> dict[str, Any]:
        """What one step takes, counted over the next one; times under the counter mean nothing."""
        queries = self.trainer.reward_queries
        with uncompiled(self.trainer.policy.network), FlopCounterMode(display=False) as counter:
            self.step()
        return {
            "reward_queries": self.trainer.reward_queries - queries,
            "flop": counter.get_total_flops(),
            "activation_checkpointing": self.trainer.policy.activation_checkpointing,
            "predicted_bytes": self.predicted_bytes(),
        }

    def predicted_bytes(self) -> float | None:
        """What `memory: auto` expects a step of the direct algorithm to take at most."""
        algorithm, policy = self.trainer.algorithm, self.trainer.policy
        if self.setup["algorithm"] != "direct":
            return None
        mode = policy.activation_checkpointing
        peak = predict_peak(
            policy, self.trainer.reward, self.first_batch(), algorithm.reference, mode
        )
        policy.activation_checkpointing = mode
        return peak

    def first_batch(self) -> Batch:
        """The plain loop's first batch."""
        policy, size = self.trainer.policy, self.setup["batch_size"]
        noise = policy.noise(0, [str(i) for i in range(size)], "training")
        embeddings = {k: v[:size].to(self.device) for k, v in self.trainer.embeddings.items()}
        return Batch(self.setup["prompts"][:size], embeddings, noise)

    def gradient(self, file: str) -> None:
        """Write the gradient of the plain loop's first batch, by the adapter's names."""
        trainer = self.trainer
        loss, _ = trainer.algorithm.loss(trainer.policy, trainer.reward, self.first_batch())
        values = torch.autograd.grad(loss, self.parameters)
        save_file(
            {k: v.cpu().contiguous() for k, v in zip(self.trainer.lora, values, strict=True)}, file
        )

    @functools.cached_property
    def bare(self) -> dict[str, Callable[[], None]]:
        """One U-Net call each, with nothing around it: what a step's floor is made of.

        policy: forward and backward to state and adapter; first: to the adapter alone, as the first
        state is noise; reference: to the state alone; observed: no backward pass.
        """
        policy, count = self.trainer.policy, self.setup["batch_size"]
        noise = policy.noise(0, [str(i) for i in range(count)], "floor")[:, 0]
        first = self.trainer.embeddings[HIDDEN][:1]
        embeddings = {HIDDEN: first.expand(count, -1, -1).to(self.device)}

        def run(state: Tensor, adapted: bool, backward: bool) -> None:
            off = contextlib.nullcontext() if adapted else policy.reference()
            with off, torch.set_grad_enabled(backward):
                mean = policy.mean(0, state, embeddings)
            if not backward:
                return
            wanted = [*([state] if state.requires_grad else []), *(self.parameters * adapted)]
            torch.autograd.grad(mean, wanted, torch.ones_like(mean), allow_unused=True)

        inside = noise.clone().requires_grad_()
        return {
            "policy": lambda: run(inside, True, True),
            "first": lambda: run(noise, True, True),
            "reference": lambda: run(inside, False, True),
            "observed": lambda: run(noise, False, False),
        }

    def floor(self) -> dict[str, dict[str, float]]:
        """Of each kind of pass how many a step takes, and the seconds of so many called alone."""
        steps, regularised = self.setup["steps"], self.setup["divergence"] != "none"
        counts = {
            "policy": steps - 1,
            "first": 1,
            "reference": max(steps - 2, 0) * regularised,
            "observed": min(steps - 1, 1) * regularised,
            "decode and reward": 1,
        }
        calls, lines = {**self.bare, "decode and reward": self.decode_and_reward}, {}
        for name, count in counts.items():
            began = self.clock()
            for _ in range(count):
                calls[name]()
            synchronise(self.device)
            lines[name] = {"count": count, "seconds": self.clock() - began}
        return lines

    def decode_and_reward(self) -> None:
        """Decoding and scoring a batch, forward and backward to the latents."""
        policy, size = self.trainer.policy, self.setup["batch_size"]
        latents = policy.noise(0, [str(i) for i in range(size)], "floor")[:, 0].requires_grad_()
        scores = self.trainer.reward.score(policy.decode(latents), self.setup["prompts"][:size])
        torch.autograd.grad(scores.sum(), latents)

    def account(self) -> dict[str, float]:
        """Seconds of the parts of one step; waiting for a GPU between them costs a little more."""
        trainer, seconds = self.trainer, dict[str, float]()
        parts = {
            "batch": (trainer, "batches"),
            "rollout": (trainer.policy, "rollout"),
            "decoding": (trainer.policy, "decode"),
            "reward": (trainer.reward, "score"),
            "backward": (trainer.optimiser, "backward"),
            "optimiser": (trainer.optimiser, "step"),
            "history": (trainer, "_means"),
        }
        with contextlib.ExitStack() as stack:
            for name, (owner, method) in parts.items():
                stack.enter_context(self.timed(owner, method, seconds, name))
            synchronise(self.device)
            began = self.clock()
            self.step()
            synchronise(self.device)
            whole = self.clock() - began
        return seconds | {"the rest": whole - sum(seconds.values())}

    @contextlib.contextmanager
    def timed(self, owner: Any, method: str, seconds: dict, name: str) -> Iterator[None]:
        """Inside, calls of `owner.method` add their time to `seconds[name]`."""
        plain = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            synchronise(self.device)
            began = self.clock()
            try:
                return plain(*args, **kwargs)
            finally:
                synchronise(self.device)
                seconds[name] = seconds.get(name, 0) + self.clock() - began

        owner.__dict__[method] = watched
        try:
            yield
        finally:
            del owner.__dict__[method]

    def profile(self) -> dict[str, float]:
        """Seconds of the ten operations that a step spends most in: a GPU's own, or the CPU's."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device.type == "cuda"
        wanted = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        clock = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
        with profile(activities=wanted) as seen:
            self.step()
            synchronise(self.device)
        spent = {row.key: getattr(row, clock) / 1e6 for row in seen.key_averages()}
        return dict(sorted(spent.items(), key=lambda item: -item[1])[:10])

    def matrix_rate(self) -> float:
        """FLOP/s of the device's best square matrix product in the step's precision."""
        dtype, best = self.trainer.precision, 0.0
        for size in (1024, 2048) if self.device.type == "cpu" else (4096, 8192):
            left, right = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
            for _ in range(5):
                synchronise(self.device)
                began = self.clock()
                for _ in range(repeats := 1 if self.device.type == "cpu" else 20):
                    left @ right
                synchronise(self.device)
                best = max(best, repeats * 2 * size**3 / (self.clock() - began))
        return best


def in_halves(forward: Callable[..., tuple[Tensor]]) -> Callable[..., tuple[Tensor]]:
    """A U-Net's pass over a guided batch as two: without its prompts, and with them."""

    def run(
        states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any
    ) -> tuple[Tensor]:
        pairs = zip(states.chunk(2), encoder_hidden_states.chunk(2), strict=True)
        outputs = [forward(s, timestep, encoder_hidden_states=e, **more)[0] for s, e in pairs]
        return (torch.cat(outputs),)

    return run


def build(setup: dict[str, Any], device: torch.device) -> dict[str, Any]:
    ours = Ours(setup, device)
    names = ("step", "passes", "facts", "gradient", "floor", "account", "profile", "matrix_rate")
    return {name: getattr(ours, name) for name in names}


if __name__ == "__main__":
    serve(build)
