"""How far gradients of single images scatter, and who compares them."""

import csv
import itertools

import numpy as np
import pytest
import tiny
import torch
from synthetic import make_config, make_wide_config, write_results

import rocm_core.training.trainer
from rocm_core.analysis import Results
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import CONFIRMED, NOT_TESTED, UNDECIDED, decide
from rocm_core.claims.rocm import gradient_variance
from rocm_core.errors import UserError
from rocm_core.grid import Artefacts, compared_gradients, make_grid, measured_steps
from rocm_core.provenance import record_beside
from rocm_core.tables import gradients as table
from rocm_core.training import Trainer, measure_gradients, scatter
from rocm_core.training.gradients import Scatter

PROMPTS, EACH = 3, 4  # of one image's gradients


def counted(gradients, unit=1, each=EACH):
    """What a `Scatter` makes of gradients (N, D)."""
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    seen = Scatter(parameters, unit, each)
    for gradient in gradients.tolist():
        first, second = torch.tensor(gradient[:3]), torch.tensor(gradient[3:]).view(2, 2)
        seen.backward((parameters[0] * first).sum())  # in two parts, as of a chain's transitions
        if second.any():
            seen.backward((parameters[1] * second).sum())
        seen.step()
    return seen.estimates()


def test_the_estimates_have_no_bias_though_images_of_a_prompt_are_alike():
    generator = np.random.default_rng(0)
    mean, found = np.linspace(-0.5, 0.7, 7), []
    for _ in range(400):
        of_prompts = np.repeat(generator.normal(0, 0.6, (PROMPTS, 7)), EACH, axis=0)
        found.append(counted(mean + of_prompts + generator.normal(0, 0.4, of_prompts.shape)))
    squared_mean, variance = np.mean(found, axis=0)
    errors = np.std(found, axis=0) / 20
    assert abs(squared_mean - mean @ mean) < 3 * errors[0] < 0.3 * mean @ mean
    assert abs(variance - 7 * (0.36 + 0.16)) < 3 * errors[1] < 0.2 * variance


def test_the_estimates_are_those_of_all_pairs_of_prompts():
    gradients = np.random.default_rng(1).normal(size=(PROMPTS * EACH, 7))
    gradients[5, 3:] = 0  # of a layer that had no gradient
    prompts = np.repeat(range(PROMPTS), EACH)
    pairs = itertools.permutations(range(len(gradients)), 2)
    products = [gradients[i] @ gradients[j] for i, j in pairs if prompts[i] != prompts[j]]
    squares = (gradients**2).sum(1).mean()
    squared_mean, variance = counted(gradients)
    assert squared_mean == pytest.approx(np.mean(products), rel=1e-5)
    assert variance == pytest.approx(squares - np.mean(products), rel=1e-5)
    # The gradient of a pair is a mean of two, whose variance is half of one's.
    assert counted(gradients, unit=2)[1] == pytest.approx(2 * variance, rel=1e-5)


def single_gradients(run, losses):
    """The gradient of each loss, one for one image."""
    for loss in losses:
        parts = torch.autograd.grad(loss, [*run.lora.values()], allow_unused=True)
        yield torch.cat([torch.zeros(0) if p is None else p.flatten() for p in parts])


def by_hand(gradients):
    """|G|² and the variance, of gradients of single images, two to a prompt."""
    gradients = [g.double() for g in gradients]
    pairs = itertools.permutations(range(len(gradients)), 2)
    mean = np.mean([float(gradients[i] @ gradients[j]) for i, j in pairs if i // 2 != j // 2])
    return mean, np.mean([float(g @ g) for g in gradients]) - mean


def trained(model, tmp_path, **changes):
    """A trainer of a few steps, at batches of six single images, with its LoRA."""
    from accelerate import Accelerator

    settings = tiny.settings(
        model=model, batch_size=1, accumulation_steps=6, images_per_prompt=2, learning_rate=0.05
    )
    run = Trainer(settings, tiny.PROMPTS, "", Accelerator())
    for step in (1, 2):
        run.iterate(step)
    run.export(tmp_path / "lora.safetensors")
    return run, settings, tmp_path / "lora.safetensors"


def test_gradients_of_backpropagation_are_those_of_each_image_alone(model, reward, tmp_path):
    run, settings, lora = trained(model, tmp_path)
    _, batches = run.begin(settings.iterations)
    losses = []
    for batch in batches:
        latents = run.policy.rollout(batch.embeddings, batch.noise).latents
        losses.append(-reward.score(run.policy.decode(latents), batch.prompts).sum())
    wanted = by_hand(single_gradients(run, losses))
    same = {"step": settings.iterations, "lora": lora}
    found = scatter(settings.model_copy(update={"batch_size": 4}), tiny.PROMPTS, 6, 2, **same)
    assert found == pytest.approx(wanted, rel=1e-3)
    before = scatter(settings, tiny.PROMPTS, 6, 2)
    assert before != pytest.approx(wanted, rel=0.1)  # at the start


def test_gradients_of_ppo_are_those_of_each_images_log_probability(model, reward, tmp_path):
    run, settings, lora = trained(model, tmp_path)
    _, batches = run.begin(settings.iterations)
    with torch.no_grad():
        rollouts = [run.policy.rollout(batch.embeddings, batch.noise) for batch in batches]
        scores = [
            float(reward.score(run.policy.decode(r.latents), b.prompts))
            for r, b in zip(rollouts, batches, strict=True)
        ]
    losses = []
    for i, (rollout, batch) in enumerate(zip(rollouts, batches, strict=True)):
        own = scores[i - i % 2 : i - i % 2 + 2]
        advantage = (scores[i] - np.mean(own)) / (np.std(own) + 1e-6)
        for index, past in enumerate(rollout.transitions):
            now = run.policy.reevaluate(index, past, batch.embeddings, False, False)
            density = torch.distributions.Normal(now.mean, now.std).log_prob(past.next_state)
            losses.append(-advantage * density.sum() / len(rollout.transitions))
    steps = len(rollouts[0].transitions)
    parts = [*single_gradients(run, losses)]
    whole = [torch.stack(parts[i : i + steps]).sum(0) for i in range(0, len(parts), steps)]
    ppo = tiny.settings(
        model=model, algorithm="ppo", prompt_buffer_minimum=2, ratio_clip=0.5, beta=0.0
    )
    found = scatter(ppo, tiny.PROMPTS, 6, 2, step=settings.iterations, lora=lora)
    assert found == pytest.approx(by_hand(whole), rel=1e-3)


def test_a_pair_counts_as_two_images_and_weights_stay_as_they_are(model, reward, tmp_path):
    _, settings, lora = trained(model, tmp_path)
    methods = {
        "rocm-none": settings,
        "rebel": tiny.settings(model=model, algorithm="rebel", beta=0.0),
        "grpo": tiny.settings(model=model, algorithm="grpo", beta=0.0),
    }
    output = tmp_path / "gradients.csv"
    for name in ("one", "two"):
        steps = {"start": 1, "end": settings.iterations}
        measure_gradients(methods, tiny.PROMPTS, 8, 4, steps, lora, output, "f00d")
        output.rename(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert record_beside(output).exists()
    rows = [*csv.DictReader((tmp_path / "one").open())]
    assert [(r["at"], r["gradient"]) for r in rows] == [
        *itertools.product(("start", "end"), methods)
    ]
    assert all(float(row["variance"]) > 0 and row["images"] == "8" for row in rows)


def test_a_gradient_that_is_not_finite_ends_the_job(model, reward, monkeypatch, tmp_path):
    class Broken(tiny.Brightness):
        def score(self, images, prompts):
            return (images.sum((1, 2, 3)) - images.sum((1, 2, 3))).sqrt()  # 0, of slope 0 / 0

    _, settings, lora = trained(model, tmp_path)
    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda *_: Broken())
    output = tmp_path / "gradients.csv"
    with pytest.raises(UserError, match="start: the gradient of rocm-none is not finite"):
        measure_gradients(
            {"rocm-none": settings}, tiny.PROMPTS, 8, 4, {"start": 1}, lora, output, "f00d"
        )
    assert not output.exists()


GRADIENTS = {"methods": ["rocm-none", "rlcm"]}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"gradients": {"methods": ["rocm-nune"]}}, "rocm-nune"),
        ({"gradients": {**GRADIENTS, "images": 20}}, "multiple of images_per_prompt"),
        ({"gradients": {**GRADIENTS, "images_per_prompt": 5, "images": 20}}, "even"),
        ({"gradients": {"methods": ["rocm-none", "ddpo"]}}, "differ in policy"),
        (
            {"cells": {"hpsv2/rlcm": {"lora_rank": 2}}, "gradients": GRADIENTS},
            "differ in lora_rank",
        ),
        (
            {
                "gradients": {"methods": ["d3po-consistency-kl"]},
                "methods": {
                    "d3po-consistency-kl": {
                        "beta": {"search": [0.1, 1.0], "iterations": 5},
                        "images_per_prompt": 2,
                        "batch_size": 2,
                    }
                },
                "sweeps": [],
                "study": None,
            },
            "beta of d3po-consistency-kl is yet to be searched",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        make_wide_config(**changes)


def test_each_training_is_compared_with_those_of_its_reward_and_seed():
    config = make_wide_config()
    cells = make_grid(config)
    found = {c.name: compared_gradients(config, cells, c) for c in cells}
    measured = {name: [*methods] for name, methods in found.items() if methods}
    assert measured == {
        f"{reward}/{method}/seed-{seed}": ["rocm-none", "rlcm"]
        for reward in ("hpsv2", "aesthetic")
        for method in ("rocm-none", "rlcm")
        for seed in (0, 1)
    }
    for name in measured:
        reward, _, seed = name.split("/")
        for settings in found[name].values():
            assert (settings.reward, f"seed-{settings.seed}") == (reward, seed)
    files = Artefacts(config)
    assert len(files.gradient_files()) == len(measured)
    assert Artefacts(make_config()).gradient_files() == []


def test_the_start_that_trainings_share_is_measured_once():
    methods = ("rocm-none", "rlcm")
    for cell in make_grid(make_wide_config()):
        if cell.variant in methods:
            start = {"start": 1} if cell.variant == "rocm-none" else {}
            assert measured_steps(cell, methods) == start | {"end": cell.settings.iterations}


def test_all_methods_take_theirs_on_the_same_images(model, reward, tmp_path):
    """However long the training of each is."""
    _, settings, lora = trained(model, tmp_path)
    longer = settings.model_copy(update={"iterations": settings.iterations + 3})
    taken = [scatter(own, tiny.PROMPTS, 6, 2, step=2, lora=lora) for own in (settings, longer)]
    assert taken[0] == taken[1]


def test_the_claim_is_decided_by_the_share_of_signal_over_seeds(tmp_path):
    config = make_wide_config()
    write_results(tmp_path, config)
    verdict = decide(gradient_variance, Evidence(Results(config, tmp_path)))
    assert verdict.verdict == CONFIRMED
    assert len(verdict.findings) == 2 * 2  # rewards; the start, and the end of PPO
    assert verdict.findings[1].part.label == "HPSv2, the end of RLCM: ROCM, no divergence − RLCM"
    # 0.1 / 1.1 less 0.01 / 1.01
    shown = [finding.shown.mean for finding in verdict.findings]
    assert shown == pytest.approx([0.081] * 4, abs=0.01)
    one = make_wide_config(seeds=[0])
    unable = decide(gradient_variance, Evidence(Results(one, tmp_path)))
    assert unable.verdict == NOT_TESTED and "one training seed" in unable.reason
    without = decide(gradient_variance, Evidence(Results(make_config(), tmp_path)))
    assert without.verdict == NOT_TESTED and "gradients.methods" in without.reason


def test_a_method_that_is_truncated_as_configured_is_not_the_papers(tmp_path):
    config = make_wide_config(training={"stop_input": True})
    write_results(tmp_path, config)
    verdict = decide(gradient_variance, Evidence(Results(config, tmp_path)))
    assert verdict.verdict == NOT_TESTED and not verdict.findings
    methods = {"rocm-none": {}, "rlcm": {}}
    of_one = make_config(
        methods=methods,
        seeds=[0, 1],
        gradients={"methods": [*methods]},
        cells={"aesthetic/rocm-none": {"truncate": 1}},
    )
    write_results(tmp_path / "one", of_one)
    verdict = decide(gradient_variance, Evidence(Results(of_one, tmp_path / "one")))
    labels = [finding.part.label for finding in verdict.findings]
    assert len(labels) == 2 and all(label.startswith("HPSv2, ") for label in labels)


def test_gradients_that_vanish_have_no_share_of_signal(tmp_path):
    """As those of PPO do where the rewards of each group are equal."""
    config = make_wide_config(rewards=["hpsv2"], study=None)
    write_results(tmp_path, config)
    for file in tmp_path.rglob("gradients.csv"):
        header, *rows = file.read_text().splitlines()
        rows = [f"{row.rsplit(',', 2)[0]},0.0,0.0" if ",rlcm," in row else row for row in rows]
        file.write_text("\n".join([header, *rows]) + "\n")
    verdict = decide(gradient_variance, Evidence(Results(config, tmp_path)))
    assert verdict.verdict == UNDECIDED
    assert "all gradients by RLCM trained on HPSv2 at the start, seed 0, are zero" in verdict.reason
    made = table.make(Results(config, tmp_path))
    shown = [[cell.text for cell in row] for block in made.blocks for row in block.rows]
    assert [text for name, text in shown if name == "RLCM"] == ["zero"] * 3
    assert "nan" not in made.markdown() and "Zero: all gradients vanish" in made.caption


def test_the_table_names_what_is_missing(tmp_path):
    config = make_wide_config(partial=True)
    write_results(tmp_path, config)
    made = table.make(Results(config, tmp_path))
    assert len(made.data) == 2 * 3 * 2  # rewards; the start, and both ends; gradients
    own = made.data.groupby("gradient")["signal"].mean()
    assert own["rocm-none"] == pytest.approx(0.0909, rel=0.1)
    assert own["rlcm"] == pytest.approx(0.0099, rel=0.1)
    for file in (tmp_path / "cells" / "hpsv2" / "rlcm").rglob("gradients.csv"):
        file.unlink()
    results = Results(config, tmp_path)
    made = table.make(results).data
    lost = made[made["status"] == "missing"]
    assert set(zip(lost["reward"], lost["weights"], strict=True)) == {("hpsv2", "rlcm")}
    assert "cells/hpsv2/rlcm/seed-0/gradients.csv" in results.gaps
