"""TRL 0.23.1's AlignProp or DDPO trainer, in its own environment (envs/trl.txt), as published.

Only the adapter is ours, of the setup's rank and layers: TRL's default is rank 4 on attention.
"""

import functools
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers.modeling_utils
from accelerate import PartialState
from peft import LoraConfig
from trl import (
    AlignPropConfig,
    AlignPropTrainer,
    DDPOConfig,
    DDPOTrainer,
    DefaultDDPOStableDiffusionPipeline,
)

from benchmarks.contenders.worker import count_passes, serve
from rocm_core.rewards import load_reward

# Where transformers 5, with which our scorers are built, keeps `no_init_weights`.
sys.modules["transformers.initialization"] = transformers.modeling_utils

MIXED = {"float32": "no", "bfloat16": "bf16"}


class Pipeline(DefaultDDPOStableDiffusionPipeline):
    """TRL's pipeline with another adapter."""

    def __init__(self, model: str, lora: LoraConfig) -> None:
        self.lora = lora
        super().__init__(model)

    def get_trainable_layers(self) -> Any:
        unet = self.sd_pipeline.unet
        unet.add_adapter(self.lora)
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return unet


def build(setup: dict[str, Any], device: torch.device) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    PartialState(cpu=device.type == "cpu")  # TRL's pipeline cannot warn without it
    scorer = load_reward(setup["reward"], Path(setup["scorer"]), device)
    lora = LoraConfig(
        r=setup["rank"], lora_alpha=setup["alpha"], target_modules=list(setup["targets"])
    )
    pipeline = Pipeline(setup["diffusion"], lora)
    pipeline.sd_pipeline.to(device)
    unet = pipeline.sd_pipeline.unet
    pipeline.set_progress_bar_config = lambda **_: pipeline.sd_pipeline.set_progress_bar_config(
        disable=True
    )
    prompts = itertools.cycle(setup["prompts"])
    shared = {
        "mixed_precision": MIXED[setup["precision"]],
        "sample_num_steps": setup["steps"],
        "sample_guidance_scale": setup["guidance_scale"],
        "sample_eta": 1.0,
        "train_batch_size": setup["batch_size"],
        "train_learning_rate": setup["learning_rate"],
        "train_adam_weight_decay": 0.0,
        "accelerator_kwargs": {"cpu": device.type == "cpu"},
    }

    def reward(images: torch.Tensor, prompts: Any, _: Any) -> tuple[torch.Tensor, dict]:
        return scorer.score(images.float(), list(prompts)), {}

    def ask() -> tuple[str, dict]:
        return next(prompts), {}

    if setup["trainer"] == "alignprop":
        whole = {"truncated_backprop_rand": False, "truncated_backprop_timestep": 0}
        trainer = AlignPropTrainer(AlignPropConfig(**shared, **whole), reward, ask, pipeline)
    else:
        config = DDPOConfig(
            **shared,
            sample_batch_size=setup["batch_size"],
            sample_num_batches_per_epoch=1,
        )
        trainer = DDPOTrainer(config, reward, ask, pipeline)

    def step() -> None:
        trainer.step(0, 0)

    return {"step": step, "passes": functools.partial(count_passes, unet, step)}


if __name__ == "__main__":
    sys.exit(serve(build))
