"""The captioner on renders, on noisy images and on none; the agreement of captions."""

import itertools

import pytest
import torch

from rocm_core.errors import UserError
from rocm_core.rewards import load_reward
from rocm_core.rewards.shapes_alignment import agreement
from rocm_core.shapes.captioner import caption, read
from rocm_core.shapes.scenes import (
    BACKGROUNDS,
    STYLES,
    background,
    describe,
    draw_scenes,
    parse,
    render,
    sample_captions,
)

OPPOSITE = {"right of": "left of", "below": "above"}


def canonical(text: str) -> str:
    """The one of two captions of the same images that says "left of" or "above"."""
    for word, other in OPPOSITE.items():
        if f" {word} " in text:
            first, rest = text.split(f" {word} ")
            second, behind = rest.split(" on a ")
            return f"{second} {other} {first} on a {behind}"
    return text


def test_renders_give_back_their_own_captions():
    scenes = draw_scenes(500, torch.Generator().manual_seed(3))
    said = caption(render(scenes, 4))
    assert [a for a, b in zip(said, describe(scenes), strict=True) if a != canonical(b)] == []


def test_captions_do_not_depend_on_the_batch():
    images = render(draw_scenes(20, torch.Generator().manual_seed(5)), 6)
    assert caption(images) == [caption(image[None])[0] for image in images]


def test_captions_stand_noise_eight_bits_and_half_precision():
    scenes = draw_scenes(100, torch.Generator().manual_seed(7))
    images = render(scenes, 8)
    wanted = [canonical(text) for text in describe(scenes)]
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    for seen in ((images * 255).round() / 255, images.bfloat16(), noisy.requires_grad_()):
        said = caption(seen)
        assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 98


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0, torch.nan])
def test_any_image_has_a_caption(fill):
    assert parse(caption(torch.full((2, 3, 32, 32), fill)))


def test_a_scene_without_objects_keeps_its_background():
    texts = [f"a small red ring in the center on a {s} {b} background"
             for s, b in itertools.product(STYLES, BACKGROUNDS)]  # fmt: skip
    scenes = parse(texts)
    seen = read(background(scenes))
    assert torch.equal(seen.style, scenes.style)
    assert torch.equal(seen.background, scenes.background)
    assert not seen.pair.any()


def statements(text: str) -> list[set[str]]:
    """The sets of statements of a caption's readings, one of each object's properties apiece."""
    things, behind = text.split(" on a ")
    style, color, _ = behind.split()
    common = {f"background {style}", f"background {color}"}
    for word in ("left of", "right of", "above", "below"):
        if f" {word} " in things:
            pair = things.split(f" {word} ")
            turned = {"left of": "right of", "above": "below"} | OPPOSITE
            orders = [(pair, word), (pair[::-1], turned[word])]
            return [
                common
                | {f"relation {relation}"}
                | {f"{i} {part}" for i, thing in enumerate(order) for part in thing.split()[1:]}
                for order, relation in orders
            ]
    size, color, shape, place = things.removeprefix("a ").split(" ", 3)
    return [
        common | {f"place {place}"} | {f"{i} {part}" for part in (size, color, shape)}
        for i in (0, 1)
    ]


def test_agreement_is_the_f1_of_what_two_captions_state():
    texts = sample_captions(60, 10)
    texts += [canonical(text) for text in texts]
    pairs = list(itertools.product(texts, texts))
    expected = [
        max(
            2 * len(one & other) / (len(one) + len(other))
            for one in statements(a)
            for other in statements(b)
        )
        for a, b in pairs
    ]
    found = agreement(parse([a for a, _ in pairs]), parse([b for _, b in pairs]))
    assert found.tolist() == pytest.approx(expected)
    assert {round(value, 2) for value in expected} >= {0.0, 1.0}


def test_alignment_is_one_for_the_own_caption_however_told():
    scenes = draw_scenes(60, torch.Generator().manual_seed(11))
    images, texts = render(scenes, 12), describe(scenes)
    reward = load_reward("shapes-alignment")
    assert not reward.differentiable
    assert reward.score(images, texts).tolist() == [1.0] * 60
    assert reward.score(images, [canonical(text) for text in texts]).tolist() == [1.0] * 60
    assert reward.score(images, texts[1:] + texts[:1]).max() < 1


def test_alignment_refuses_a_prompt_of_another_world():
    with pytest.raises(UserError, match="not of the shapes world"):
        load_reward("shapes-alignment").score(torch.rand(1, 3, 32, 32), ["a fox"])
