"""Regularisation does what it is for: most is learned, and not far from the reference."""

import pytest
import torch
from accelerate import Accelerator

from benchmarks.compare import ROOT
from benchmarks.regularisation import CONFIG, REWARD, Trainings
from rocm_core.configuration import BetaTarget
from rocm_core.grid import load_config
from rocm_core.training import Trainer

STEPS = 40
FASTER = {"learning_rate": 6e-4, "inference_steps": 2, "iterations": STEPS}
TARGET = 0.01


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    return Trainings(load_config(CONFIG), tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="module")
def look(trainings):
    """The mean reward of a policy's images, of the same prompts and noise, and their mean d² per
    latent dimension."""
    judge = trainings.judge(trainings.cell("rocm-none"))

    @torch.no_grad()
    def look(trainer):
        policy, prompts = trainer.policy, judge.prompts[:48]
        noise = policy.noise(0, [prompt.id for prompt in prompts], "test")
        trajectory = policy.rollout(judge.embeddings[:48], noise, "full")
        texts = [prompt.text for prompt in prompts]
        scores = trainer.reward.score(policy.decode(trajectory.latents), texts)
        return float(scores.mean()), float(trajectory.squared_distances("mean").sum(1).mean())

    return look


@pytest.fixture(scope="module")
def trained(trainings):
    """A training in the embedded world, ten times as fast as the paper's and with two steps."""

    def trained(method, steps=STEPS, **changes):
        settings = trainings.cell(method).model_copy(update=FASTER | changes)
        trainer = Trainer(settings, trainings.prompts, "f00d", Accelerator(cpu=True))
        for step in range(1, steps + 1):
            trainer.iterate(step)
        return trainer

    return trained


@pytest.fixture(scope="module")
def free(trained, look):
    """Gain and d² without a divergence; and the base's reward."""
    base, _ = look(trained("rocm-none", steps=0))
    reward, distance = look(trained("rocm-none"))
    assert reward > base + 0.02
    return reward - base, distance, base


@pytest.mark.parametrize("beta", [1.0, BetaTarget(target=TARGET, start=3.0)], ids=["β", "target"])
def test_most_is_learned_at_no_more_than_half_the_distance(free, trained, look, beta):
    gain, distance, base = free
    trainer = trained("rocm-kl", beta=beta)
    reward, near = look(trainer)
    assert reward - base >= gain / 2
    assert near <= distance / 2
    if isinstance(beta, BetaTarget):
        last = [row["divergence"] for row in trainer.history[-16:]]
        assert TARGET / 2 <= sum(last) / 16 <= 2 * TARGET


def test_the_settings_are_those_of_the_paper():
    ours, paper = load_config(CONFIG), load_config(ROOT / "config/paper.yaml")
    own = {"iterations", "snapshot_every"}
    assert all(ours.training[key] == paper.training[key] for key in ours.training.keys() - own)
    assert ours.methods.keys() <= paper.methods.keys()
    assert ours.rewards == (REWARD,) and REWARD in paper.rewards
