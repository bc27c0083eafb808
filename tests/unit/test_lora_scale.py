"""The strength of an adapter at inference: the same adapter, other images."""

import pytest
import tiny
import torch
from synthetic import make_config, make_wide_config, write_results

from rocm_core.analysis import Results
from rocm_core.errors import UserError
from rocm_core.evaluation import generate
from rocm_core.figures.lora_scale import make as draw
from rocm_core.grid import Artefacts, budget_of
from rocm_core.policies import add_adapter, lora_parameters, save_lora

SCALES = [1.0, 0.0, 0.5, 1.5]


@pytest.fixture(scope="module")
def lora(model, tmp_path_factory):
    policy = tiny.load_policy("consistency", model, 4, 3.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(policy.network)
    folder = tmp_path_factory.mktemp("loras")
    save_lora(folder / "whole.safetensors", policy.network)
    with torch.no_grad():
        for name, parameter in lora_parameters(policy.network).items():
            parameter *= 0.5 if ".lora_B." in name else 1.0
    save_lora(folder / "half.safetensors", policy.network)
    return folder


def images(model, lora, folder, **changes):
    settings = tiny.generation_settings(model=model, **changes)
    generate(settings, tiny.PROMPTS, lora, folder, "f00d")
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def test_an_adapter_of_strength_0_is_the_base_and_of_half_the_one_with_half_its_products(
    model, lora, tmp_path
):
    whole = lora / "whole.safetensors"
    base, one = images(model, None, tmp_path / "base"), images(model, whole, tmp_path / "one")
    assert images(model, whole, tmp_path / "none", lora_scale=0.0) == base != one
    half = images(model, lora / "half.safetensors", tmp_path / "half")
    assert images(model, whole, tmp_path / "scaled", lora_scale=0.5) == half != one


def test_the_first_strength_makes_the_main_images_and_the_others_further_ones():
    files = Artefacts(make_config(generation={"lora_scale": SCALES}), "nowhere")
    cell, base = "hpsv2/rocm-kl/seed-0", "base-consistency"
    drawn = [place.steps for name, _, place in files.folders() if name == cell]
    assert drawn == [4, "4--lora-0", "4--lora-0.5", "4--lora-1.5"]
    assert [place.steps for name, _, place in files.folders() if name == base] == [4]
    assert [files.generation(cell, steps).lora_scale for steps in drawn] == SCALES
    assert {files.generation(cell, steps).inference_steps for steps in drawn} == {4}
    assert "lora_scale" not in files.generation(cell, 4).to_dict()
    plain = make_config()
    assert files.generation(cell, 4) == Artefacts(plain, "nowhere").generation(cell, 4)
    assert budget_of(files.config).images - budget_of(plain).images == 3 * 40 * len(files.cells)

    weaker = Artefacts(make_config(generation={"lora_scale": 0.7}), "nowhere")
    assert weaker.generation(cell).lora_scale == 0.7 and weaker.generation(base).lora_scale == 1.0


@pytest.mark.parametrize("given", [-0.5, [], [1.0, 1.0], "1", [1.0, 11.0]])
def test_what_is_no_strength_is_refused(given):
    with pytest.raises(UserError, match="generation.lora_scale"):
        make_config(generation={"lora_scale": given})


def test_the_curves_run_through_the_base_and_what_was_trained(tmp_path):
    config = make_wide_config()
    write_results(tmp_path, config, {("hpsv2", "rocm-kl"): {"hpsv2": 0.04, "gold": -0.3}})
    results = Results(config, tmp_path)
    data = draw(results).data
    own = data[(data["reward"] == "hpsv2") & (data["method"] == "rocm-kl")]
    planted = {"reward model": ("hpsv2", 0.04), "evaluators": ("gold", -0.3)}
    for whose, (metric, effect) in planted.items():
        change = effect / results.scores("base-consistency", metric).std()
        line = own[own["preference_of"] == whose].set_index("scale")["mean"]
        assert list(line.index) == [0.0, 0.5, 1.0]
        assert line[0.0] == pytest.approx(0, abs=1e-9)
        assert line[0.5] == pytest.approx(change / 2, abs=0.15)
        assert line[1.0] == pytest.approx(change, abs=0.15)
