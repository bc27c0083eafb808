"""Regularisation does what it is for: most is learned, and not far from the reference."""

from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.compare import ROOT
from benchmarks.regularisation import CONFIG, REWARD, Trainings
from rocm_core.grid import load_config
from rocm_core.policies import load_policy
from rocm_core.prompts import make_prompts
from rocm_core.training import Trainer

# Ten times as fast as the paper's, and on two steps.
FASTER = {"learning_rate": 6e-4, "inference_steps": 2, "iterations": 24}


def test_most_is_learned_at_no_more_than_half_the_distance():
    trainings = Trainings(load_config(CONFIG), Path())
    none, kl = (trainings.cell(f"rocm-{name}").model_copy(update=FASTER) for name in ("none", "kl"))
    prompts = make_prompts(trainings.config.prompts["validation"], trainings.prompts)[:32]
    texts = [prompt.text for prompt in prompts]
    with torch.no_grad():
        embeddings = load_policy(none, "cpu").encode_prompts(texts)

    @torch.no_grad()
    def look(trainer):
        """Mean reward and d² of images of the same prompts and noise."""
        noise = trainer.policy.noise(0, [prompt.id for prompt in prompts], "test")
        trajectory = trainer.policy.rollout(embeddings, noise, "full")
        scores = trainer.reward.score(trainer.policy.decode(trajectory.latents), texts)
        return scores.mean().item(), trajectory.squared_distances("mean").mean().item()

    def trained(settings):
        trainer = Trainer(settings, trainings.prompts, "f00d", Accelerator(cpu=True))
        before, _ = look(trainer)
        for step in range(1, settings.iterations + 1):
            trainer.iterate(step)
        after, distance = look(trainer)
        return after - before, distance

    (gain, far), (held_gain, near) = map(trained, (none, kl.model_copy(update={"beta": 10.0})))
    assert gain > 0.03
    assert held_gain >= gain / 2
    assert near <= far / 2


def test_the_settings_are_those_of_the_paper():
    ours, paper = load_config(CONFIG), load_config(ROOT / "config/paper.yaml")
    own = {"iterations", "snapshot_every"}
    assert all(ours.training[key] == paper.training[key] for key in ours.training.keys() - own)
    assert ours.methods.keys() <= paper.methods.keys()
    assert ours.rewards == (REWARD,) and REWARD in paper.rewards
