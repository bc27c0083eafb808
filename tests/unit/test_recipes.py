"""The recipes of the shapes world: degradations, trainings that go on, and all of it once at a few
steps."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from rocm_core.errors import UserError
from rocm_core.jobs import INTERRUPTED
from rocm_core.policies import load_policy
from rocm_core.recipes import (
    autoencoder,
    choices,
    consistency,
    degradations,
    diffusion,
    evaluate,
    flow,
    scorers,
)
from rocm_core.recipes.degradations import blur, degrade, render_mixed
from rocm_core.recipes.steps import kept, learn
from rocm_core.shapes.judge import judge
from rocm_core.shapes.models import alphas_cumprod
from rocm_core.shapes.scenes import draw_scenes, render
from rocm_core.shapes.tokenizer import save_tokenizer

SCENES = draw_scenes(120, torch.Generator().manual_seed(0))
RANGES = {"CONTRAST": (1.0, 1.0), "BLUR": (0.0, 0.0), "NOISE": (0.0, 0.0), "CAST": (0.0, 0.0)}


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def only(monkeypatch):
    """Switch off all degradations but those given."""

    def only(**ranges):
        for name, value in (RANGES | ranges).items():
            monkeypatch.setattr(degradations, name, value)
        return render(SCENES, 0), degrade(render(SCENES, 0), seeded())

    return only


def test_a_quarter_of_the_renderings_is_perfect_and_the_rest_is_as_diverse_as_web_data():
    mixed, perfect = render_mixed(SCENES, seeded()), render(SCENES, seeded())
    same = (mixed == perfect).flatten(1).all(1)
    assert abs(same.float().mean() - degradations.PERFECT_SHARE) < 0.1
    assert mixed.min() >= 0 and mixed.max() <= 1
    assert torch.equal(mixed, render_mixed(SCENES, seeded()))
    gold = judge(mixed, SCENES)
    assert gold[same].mean() > 0.95 and gold[~same].mean() < 0.65 and gold[~same].std() > 0.15


def test_without_strength_nothing_is_degraded(only):
    images, degraded = only()
    torch.testing.assert_close(degraded, images, atol=1e-5, rtol=0)


def test_contrast_is_lost_towards_the_mean(only):
    images, degraded = only(CONTRAST=(0.5, 0.5))
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(degraded, (images + mean) / 2, atol=1e-5, rtol=0)


def test_noise_is_as_strong_as_it_says_and_some_pixels_wide(only):
    images, degraded = only(NOISE=(0.04, 0.04))
    inside = (images > 0.2) & (images < 0.8)  # where nothing is clipped
    noise = degraded - images
    assert 0.02 < noise[inside].std() < 0.05
    both = inside[..., 1:] & inside[..., :-1]
    neighbours = torch.stack([noise[..., 1:][both], noise[..., :-1][both]])
    assert torch.corrcoef(neighbours)[0, 1] > 0.8


def test_a_cast_is_of_one_colour_per_image(only):
    images, degraded = only(CAST=(0.05, 0.05))
    torch.testing.assert_close(degraded, (images + 0.05).clamp_max(1), atol=1e-5, rtol=0)


def test_blurring_spreads_a_point_and_keeps_what_is_even():
    point = torch.zeros(1, 1, 32, 32)
    point[..., 16, 16] = 1
    spread = blur(point, torch.full((1, 1, 1, 1), 2.0))[0, 0]
    distance = torch.arange(32.0) - 16
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    assert (spread.sum(0) * distance**2).sum() == pytest.approx(4, rel=0.02)
    even = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(blur(even, torch.full((1, 1, 1, 1), 1.0)), even)


def line(state, steps=6, stop_at=None):
    """A line fitted by `learn`; a SIGTERM arrives in step `stop_at`."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def loss(g):
        x = torch.randn(8, 1, generator=g)
        return ((model(x) - 2 * x) ** 2).mean()

    def after(step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    learn("line", state, parts, steps, 0, loss, after)
    return model.weight.item()


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    expected = line(tmp_path / "whole")
    with pytest.raises(SystemExit) as stopped:
        line(tmp_path / "parts", stop_at=2)
    assert stopped.value.code == INTERRUPTED
    assert line(tmp_path / "parts") == expected != line(tmp_path / "longer", steps=7)
    assert line(tmp_path / "whole", steps=7) == line(tmp_path / "longer", steps=7)


def test_what_an_interrupted_run_has_made_is_not_made_again(tmp_path):
    def fail():
        raise AssertionError

    made = kept(tmp_path / "x.pt", lambda: {"x": torch.ones(2)})
    torch.testing.assert_close(kept(tmp_path / "x.pt", fail), made)


class OnePoint(nn.Module):
    """The exact teacher of data that are one point."""

    point = 0.5

    def forward(self, x, t, encoder_hidden_states):
        alpha = alphas_cumprod()[t][:, None, None, None]
        noise = (x - alpha.sqrt() * self.point) / (1 - alpha).sqrt()
        return type("Output", (), {"sample": noise})


def test_trajectories_lead_from_noise_to_the_data_through_the_students_timesteps():
    data = consistency.trajectories(OnePoint(), torch.zeros(7, 3, 4), seed=0, batch_size=3)
    torch.testing.assert_close(data["ends"], torch.full((7, 8, 8, 8), 0.5))
    starts = data["timesteps"] == 999
    assert data["rows"][starts].tolist() == list(range(7))
    assert data["points"][starts].std() == pytest.approx(1, abs=0.05)
    assert ((data["timesteps"] + 1) % 20 == 0).all()
    assert len(data["timesteps"].unique()) > 17  # batches start at different offsets
    alpha = alphas_cumprod()[data["timesteps"]]
    spread = data["points"].flatten(1).std(1)
    torch.testing.assert_close(spread, (1 - alpha).sqrt(), atol=0, rtol=0.15)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world made by all recipes at one or two steps."""
    folder = tmp_path_factory.mktemp("world")
    shapes, state = folder / "shapes", folder / "state"
    save_tokenizer(shapes / "tokenizer")
    autoencoder.main(folder / "vae", state, steps=2, batch_size=2, images=4)
    trained = folder / "diffusion"
    diffusion.main(
        folder / "vae", shapes / "tokenizer", trained, state, steps=2, batch_size=2, images=4
    )
    consistency.main(
        folder / "vae", shapes / "tokenizer", trained, shapes, state, 2, batch_size=2, captions=3
    )
    flow.main(
        *(folder / "vae", shapes / "tokenizer", shapes / "flow", state),
        **{"steps": 2, "batch_size": 2, "images": 4, "student_steps": 2, "captions": 3},
    )
    choices.main(shapes, folder / "choices.pt", captions=4)
    assert not state.exists()
    return folder


@pytest.mark.parametrize("name", choices.POLICIES)
def test_the_bases_of_a_new_world_are_policies(world, name):
    policy = load_policy(choices.training_settings(world / "shapes", name))
    images = choices.sample(policy, choices.encode(policy, ["a red circle"]), "stream")
    assert images.shape == (1, 3, 32, 32) and images.dtype == torch.uint8
    assert policy.steps == choices.POLICIES[name][1]


@torch.no_grad()
def test_the_second_few_step_base_is_a_policy_of_its_own_architecture_and_chain(world, monkeypatch):
    from diffusers import StableDiffusion3Pipeline
    from diffusers.schedulers import scheduling_flow_match_lcm

    from rocm_core.configuration import ModelSettings
    from rocm_core.grid.models import default_chain

    model = str(world / "shapes/flow")
    assert default_chain(model) == "flow"
    asked = {"policy": "flow", "chain": "flow", "model": model, "inference_steps": 4}
    policy = load_policy(ModelSettings(**asked, guidance_scale=1.0))
    assert policy.chain.stds == pytest.approx([0.75, 0.5, 0.25], abs=1e-6)
    noise, captions = policy.noise(0, ["a", "b"], "test"), ["a red circle", "a blue ring"]
    ours = policy.decode(policy.rollout(policy.encode_prompts(captions), noise).latents)
    draws = iter([*noise[:, 1:].unbind(1), noise[:, 0]])
    monkeypatch.setattr(scheduling_flow_match_lcm, "randn_tensor", lambda *_, **__: next(draws))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        model, torch_dtype=torch.float32, **flow.WITHOUT_T5
    )
    pipeline.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "num_inference_steps": 4, "guidance_scale": 1.0}
    call |= {"latents": noise[:, 0].clone(), "max_sequence_length": 0, "output_type": "pt"}
    assert (pipeline(captions, **call).images - ours).abs().max() <= 1e-5
    size = sum(file.stat().st_size for file in (world / "shapes/flow").rglob("*.safetensors"))
    assert size < 8e6  # of them 6 are the transformer's


def one_point(noisy, sigmas, text):
    """The exact velocity of data that are one point."""
    return (noisy - OnePoint.point) / sigmas[:, None, None, None]


def test_the_flows_trajectories_lead_from_noise_to_the_data_at_all_levels():
    texts = torch.zeros(7, 3, 4), torch.zeros(7, 4)
    data = flow.trajectories(one_point, texts, seed=0, batch_size=3)
    torch.testing.assert_close(data["ends"], torch.full((7, 8, 8, 8), 0.5))
    starts = data["sigmas"] == 1
    assert data["rows"][starts].tolist() == list(range(7))
    assert data["points"][starts].std() == pytest.approx(1, abs=0.05)
    assert data["sigmas"].min() > 0 and len(data["sigmas"].unique()) > 2 * flow.SOLVER_STEPS
    spread = data["points"].flatten(1).std(1)
    torch.testing.assert_close(spread, data["sigmas"], atol=1e-3, rtol=0.15)


def test_a_flow_that_is_exact_has_no_loss():
    class Exact:
        def encode(self, tokens):
            return tokens, tokens

        def __call__(self, noisy, sigmas, text):
            return one_point(noisy, sigmas, text)

    latents = torch.full((64, 8, 8, 8), OnePoint.point)
    assert flow.flow_loss(Exact(), latents, torch.zeros(64, 3), seeded()) < 1e-6


def test_no_file_of_a_new_world_says_where_it_was_made(world):
    texts = [file.read_text() for file in (world / "shapes").rglob("*.json")]
    assert len(texts) > 8 and not any(str(world) in text for text in texts)


def test_candidates_of_a_caption_differ_and_repeat(world):
    saved = torch.load(world / "choices.pt", weights_only=True)
    again = choices.base_candidates(world / "shapes", 4, seed=99)
    assert again.captions == saved["captions"] and torch.equal(again.images, saved["images"])
    columns = again.images.unbind(1)
    assert len(columns) == len(choices.IMAGES) and not torch.equal(columns[0], columns[1])
    for images, gold in zip(columns, again.gold.unbind(1), strict=True):
        torch.testing.assert_close(judge(images / 255, again.captions), gold)


@pytest.fixture
def short(monkeypatch):
    """The scorers' recipes at a few steps."""
    sizes = {"RENDERINGS": 40, "BATCH": 4, "ROWS": 4, "ROUNDS": 1, "PROMPTS": 8}
    for name, value in (sizes | {"ROUND_CAPTIONS": 3, "EVALUATION_CAPTIONS": 4}).items():
        monkeypatch.setattr(scorers, name, value)
    steps = {"contrast_steps": 20, "choice_steps": 20, "round_steps": 20}
    quick = scorers.replace(scorers.RECIPES["imagereward"], **steps)
    monkeypatch.setitem(scorers.RECIPES, "imagereward", quick)
    for values in (*scorers.ON_POLICY.values(), scorers.SHORT):
        monkeypatch.setitem(values, "iterations", 3)


@pytest.mark.faults  # for its time
def test_a_scorer_is_trained_along_policies_that_it_trains(world, short, capsys):
    made = world / "repetition-0"
    arguments = (world / "shapes", world / "choices.pt", world / "shapes/tokenizer")
    with pytest.raises(UserError, match="no recipe for nothing"):
        scorers.main(*arguments, made, world / "state", ("nothing",))
    scorers.main(*arguments, made, world / "state", ("imagereward",))
    metrics = json.loads((made / "imagereward/metrics.json").read_text())
    assert metrics["gold_gained"]["beta"] == scorers.SHORT_BETA * metrics["score_std"] > 0
    assert "gold along ROCM and RLCM" in capsys.readouterr().out
    assert not (world / "state/imagereward").exists()
    evaluate.main(
        world / "shapes", (str(made / "imagereward"),), (str(made / "imagereward"),), captions=6
    )
    shapes = world / "shapes"
    quality = json.loads((shapes / "quality.json").read_text())
    assert quality["renderings"]["mean"] > 0.99 > quality["renderings of mixed quality"]["mean"]
    assert quality["consistency, 4 steps"]["deviation_between_seeds"] >= 0
    assert len(json.loads((shapes / "scorers.json").read_text())["imagereward"]) == 2
    listed = json.loads((shapes / "MANIFEST.json").read_text())
    assert {"seeds.png", "samples.png", "scorers/imagereward/model.safetensors"} <= listed.keys()
