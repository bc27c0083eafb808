"""The embedded world: captions, renderer and judge."""

from dataclasses import replace

import pytest
import torch
from checkout import ROOT

from rocm_core.errors import UserError
from rocm_core.shapes import scenes as world
from rocm_core.shapes.judge import PASS, judge, unexplained


@pytest.fixture(scope="module")
def scenes() -> world.Scenes:
    return world.draw_scenes(100, torch.Generator().manual_seed(0))


def bump(index: torch.Tensor, options: int, by: int = 1) -> torch.Tensor:
    """The first object's attribute changed to another one."""
    changed = index.clone()
    changed[:, 0] = (changed[:, 0] + by) % options
    return changed


def passing(shown: world.Scenes, asked: world.Scenes) -> float:
    return (judge(world.render(shown, 5), asked) >= PASS).float().mean().item()


def test_every_caption_describes_the_scene_it_is_parsed_into(scenes):
    captions = world.describe(scenes)
    assert world.describe(world.parse(captions)) == captions


def test_another_worlds_caption_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="a large turquoise circle"):
        world.parse("a large turquoise circle in the center on a plain gray background")


def test_captions_are_different_reproducible_and_never_held_out_for_training():
    seen = world.sample_captions(300, seed=1)
    unseen = world.sample_captions(300, seed=1, unseen=True)
    assert len(set(seen)) == 300 and seen == world.sample_captions(300, seed=1)
    assert not any(map(world.held_out, seen)) and all(map(world.held_out, unseen))
    assert not set(seen) & set(world.sample_captions(300, seed=1, exclude=seen))
    assert not any(
        map(world.held_out, world.describe(world.training_scenes(200, torch.Generator())))
    )


def test_asking_for_more_captions_than_exist_is_refused():
    def is_single(caption):
        return " of a " not in caption and "above" not in caption and "below" not in caption

    # 5 × 6 × 2 objects at 5 places on 3 × 3 backgrounds: 2,700 captions, a fifth of them held out.
    with pytest.raises(UserError, match="fewer"):
        world.sample_captions(2700, seed=0, unseen=True, keep=is_single)
    assert len(world.sample_captions(400, seed=0, unseen=True, keep=is_single)) == 400


def test_drawn_scenes_satisfy_their_own_captions(scenes):
    position, radius = world.draw_nuisance(scenes, torch.Generator().manual_seed(1))
    assert world.fits(scenes, position, radius, tolerance=0.01).all()


def test_a_mirrored_relation_does_not_fit(scenes):
    position, radius = world.draw_nuisance(scenes, torch.Generator().manual_seed(1))
    mirrored = replace(scenes, relation=scenes.relation ^ 1)
    assert not world.fits(mirrored, position, radius)[scenes.pair].any()


def test_a_shape_covers_its_analytic_area():
    position, radius = torch.full((1, 2), 16.0), torch.tensor([8.0])
    areas = {
        "circle": torch.pi * 64,
        "square": (2 * 0.9 * 8) ** 2,
        "cross": (2 * 2 * 0.66 - 0.66**2) * 64,
        "ring": torch.pi * 64 * (1.0**2 - 0.44**2),
    }
    for name, area in areas.items():
        mask = world.coverage(torch.tensor([world.SHAPES.index(name)]), position, radius)
        assert mask.sum().item() == pytest.approx(area, rel=0.02), name


def test_the_judge_explains_every_clean_rendering(scenes):
    assert unexplained(world.render(scenes, 2), scenes).max() < 0.02


def test_the_judge_fails_what_contradicts_the_caption(scenes):
    wrong = {
        "color": replace(scenes, color=bump(scenes.color, len(world.COLORS))),
        "size": replace(scenes, size=bump(scenes.size, 2)),
        "relation or place": replace(
            scenes, relation=scenes.relation ^ 1, place=(scenes.place + 1) % len(world.PLACES)
        ),
        "background": replace(scenes, background=(scenes.background + 1) % 3),
        "style": replace(scenes, style=(scenes.style + 1) % 3),
    } | {
        f"shape + {by}": replace(scenes, shape=bump(scenes.shape, len(world.SHAPES), by))
        for by in range(1, len(world.SHAPES))
    }
    for name, shown in wrong.items():
        # Two equal objects may be named in either order; a circle and a square differ the least.
        assert passing(shown, scenes) < 0.12, name


def test_a_missing_or_an_additional_object_fails(scenes):
    pairs = scenes[scenes.pair]
    assert passing(world.as_singles(pairs), pairs) == 0
    assert passing(pairs, world.as_singles(pairs)) == 0


def test_noise_does_not_please_the_judge(scenes):
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(len(scenes), 3, world.SIZE, world.SIZE, generator=generator)
    assert judge(noise, scenes).max() < 0.01
    clean = world.render(scenes, 2)
    levels = [0.0, 0.05, 0.1, 0.2]
    worse = [
        judge((clean + s * torch.randn(clean.shape, generator=generator)).clamp(0, 1), scenes)
        for s in levels
    ]
    means = [verdict.mean().item() for verdict in worse]
    assert means == sorted(means, reverse=True) and means[-1] < 0.05


def test_a_verdict_does_not_depend_on_the_batch(scenes):
    images = world.render(scenes, 4)
    captions = world.describe(scenes)
    together = judge(images, captions)
    alone = torch.cat([judge(images[i : i + 1], captions[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together[:5], alone, atol=1e-5, rtol=0)


def test_all_weights_of_the_world_are_small_enough_for_a_clone():
    files = [path for path in (ROOT / "resources/shapes").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 40e6
