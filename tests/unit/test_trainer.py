"""A run in memory: what an iteration is made of, and what it does to the adapter."""

import pytest
import tiny
import torch

from rocm_core.training import AdapterOptimiser, Trainer


def trainer(model, **changes):
    from accelerate import Accelerator

    return Trainer(tiny.settings(model=model, **changes), tiny.PROMPTS, "f00d", Accelerator())


def test_training_raises_the_reward_and_a_divergence_keeps_it_near_the_reference(model, reward):
    runs = [trainer(model, divergence="kl", beta=beta, learning_rate=0.05) for beta in (0.0, 1.0)]
    _, (batch,) = runs[0].batches(1000)

    def look(run):
        with torch.no_grad():
            _, seen = run.algorithm.loss(run.policy, reward, batch)
        return float(seen.reward.mean()), float(seen.divergence.mean())

    start, _ = look(runs[0])
    for step in range(1, 9):
        for run in runs:
            run.iterate(step)
    (free, far), (_, near) = map(look, runs)
    assert free > start + 0.003
    assert near < 0.7 * far


def test_how_a_batch_is_split_does_not_change_the_iteration(model, reward):
    whole = trainer(model, batch_size=4)
    split = trainer(model, batch_size=2, accumulation_steps=2)
    for step in (1, 2):
        ours, theirs = whole.iterate(step), split.iterate(step)
        assert ours["reward"] == pytest.approx(theirs["reward"], rel=1e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)


def test_images_of_a_prompt_span_batches_and_iterations_are_dealt_whole_prompts(model, reward):
    changes = {"algorithm": "ppo", "images_per_prompt": 4}
    whole = trainer(model, batch_size=8, **changes)
    split = trainer(model, batch_size=1, accumulation_steps=8, **changes)
    for step in (1, 2, 3):
        indices, batches = split.batches(step)
        first, second = indices[:4], indices[4:]
        assert len(set(first)) == len(set(second)) == 1 and first != second
        assert indices == whole.batches(step)[0] and len(batches) == 8
        noise = torch.cat([batch.noise for batch in batches])
        assert torch.equal(noise, whole.batches(step)[1][0].noise) and len(noise.unique(dim=0)) == 8


def test_every_epoch_visits_every_prompt_once(model, reward):
    run = trainer(model, batch_size=3)
    seen = [index for step in range(1, 11) for index in run.batches(step)[0]]
    epochs = [seen[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_processes_share_an_iteration_without_overlap(model, reward, monkeypatch):
    alone = trainer(model, batch_size=4)
    _, (whole,) = alone.batches(2)
    parts = trainer(model, batch_size=2)
    noise = []
    for rank in (0, 1):
        accelerator = type("Accelerator", (), {"num_processes": 2, "process_index": rank})
        monkeypatch.setattr(parts, "accelerator", accelerator)
        noise.append(parts.batches(2)[1][0].noise)
    assert torch.equal(torch.cat(noise), whole.noise)


def test_learning_rates_follow_the_schedule():
    def rates(**changes):
        settings = tiny.settings(iterations=6, learning_rate=1.0, **changes)
        optimiser = AdapterOptimiser([torch.nn.Parameter(torch.zeros(1))], settings, None)
        return [round(optimiser.set_learning_rate(step), 6) for step in range(1, 7)]

    assert rates() == [1] * 6
    assert rates(warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert rates(learning_rate_schedule="linear") == [round((6 - i) / 6, 6) for i in range(6)]
    assert rates(learning_rate_schedule="linear", warmup_steps=2) == [0.5, 1, 1, 0.75, 0.5, 0.25]
    ends = rates(learning_rate_schedule="linear", learning_rate_end=0.4)
    assert ends == [1, 0.9, 0.8, 0.7, 0.6, 0.5]


def test_the_moving_average_is_what_is_exported(model, reward, tmp_path):
    from safetensors.torch import load_file

    run = trainer(model, ema_decay=0.75)
    expected = {name: value.detach().clone() for name, value in run.lora.items()}
    for step in (1, 2, 3):
        run.iterate(step)
        expected = {k: 0.75 * v + 0.25 * run.lora[k].detach() for k, v in expected.items()}
    run.export(tmp_path / "average.safetensors")
    saved = load_file(tmp_path / "average.safetensors")
    assert all(torch.allclose(saved[f"unet.{k}"], v, atol=1e-7) for k, v in expected.items())
