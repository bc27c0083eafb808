import json

import pytest
import tiny
import torch

from rocm_core.errors import UserError
from rocm_core.policies import (
    add_adapter,
    load_lora,
    lora_parameters,
    reference,
    save_lora,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def unet(model):
    return tiny.load_policy("consistency", model, 4, 3.0).network


def predict(unet):
    generator = torch.Generator().manual_seed(0)
    return unet(
        torch.randn(2, *tiny.LATENT, generator=generator),
        torch.tensor(500),
        encoder_hidden_states=torch.randn(2, 12, 8, generator=generator),
        timestep_cond=torch.randn(1, 6, generator=generator),
    ).sample


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(unet):
    before = predict(unet)
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    assert torch.equal(predict(unet), before)
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in lora_parameters(unet).values()}
    assert all(parameter.dtype == torch.float32 for parameter in trainable)
    down = torch.cat([v.flatten() for k, v in lora_parameters(unet).items() if ".lora_A." in k])
    assert down.std().item() == pytest.approx(1 / 2, rel=0.1)


def test_the_first_values_depend_on_the_seed_alone(model):
    unets = [tiny.load_policy("consistency", model, 4, 3.0).network for _ in range(3)]
    for unet, seed in zip(unets, (5, 5, 6), strict=True):
        torch.manual_seed(torch.seed() % 1000)
        add_adapter(unet, 2, 6.0, tiny.TARGETS, seed)
    first, same, other = (
        torch.cat([p.flatten() for p in lora_parameters(u).values()]) for u in unets
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_an_adapter_on_half_precision_weights_is_float32(model):
    unet = tiny.load_policy("consistency", model, 4, 3.0, dtype=torch.bfloat16).network
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(unet).values())


def test_switched_off_it_is_the_reference_and_nothing_else_changes(unet):
    base = predict(unet)
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(unet)
    adapted = predict(unet)
    assert (adapted - base).abs().max() > 0.01
    with pytest.raises(RuntimeError, match="inside"), reference(unet):
        assert torch.equal(predict(unet), base)
        assert all(parameter.requires_grad for parameter in lora_parameters(unet).values())
        raise RuntimeError("inside")
    assert torch.equal(predict(unet), adapted)


def test_saved_and_loaded_it_is_the_same_in_value_and_in_bytes(unet, model, tmp_path):
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(unet)
    save_lora(tmp_path / "a.safetensors", unet)
    save_lora(tmp_path / "b.safetensors", unet)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    other = tiny.load_policy("consistency", model, 4, 3.0).network
    add_adapter(other, 3, 1.0, ("to_q",), seed=1)  # to be replaced
    load_lora(other, tmp_path / "a.safetensors")
    assert torch.equal(predict(other), predict(unet))
    save_lora(tmp_path / "c.safetensors", other)
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_other_values_can_be_saved_in_its_place(unet, tmp_path):
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    start = predict(unet)
    kept = {name: value.detach().clone() for name, value in lora_parameters(unet).items()}
    tiny.perturb(unet)
    save_lora(tmp_path / "average.safetensors", unet, kept)
    load_lora(unet, tmp_path / "average.safetensors")
    assert torch.equal(predict(unet), start)


def test_files_that_cannot_be_used_are_named(unet, tmp_path):
    with pytest.raises(UserError, match="absent.safetensors does not exist"):
        load_lora(unet, tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="is a folder: name the lora.safetensors in it"):
        load_lora(unet, tmp_path)
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    path = tmp_path / "lora.safetensors"
    save_lora(path, unet)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="lora.safetensors cannot be loaded"):
        load_lora(unet, path)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_an_adapter_of_another_unet_is_refused(unet, tmp_path):
    from diffusers import UNet2DConditionModel

    shape = {"sample_size": 4, "cross_attention_dim": 8, "norm_num_groups": 4}
    wider = UNet2DConditionModel(block_out_channels=(8, 16, 16, 16), layers_per_block=2, **shape)
    add_adapter(wider, 2, 6.0, tiny.TARGETS, seed=0)
    save_lora(tmp_path / "wide.safetensors", wider)
    with pytest.raises(UserError, match="wide.safetensors"):
        load_lora(unet, tmp_path / "wide.safetensors")


def test_targets_that_name_no_layer_are_refused(unet):
    with pytest.raises(UserError, match="lora_targets: .*to_quack"):
        add_adapter(unet, 2, 6.0, ("to_quack",), seed=0)


def edited(path, **changes):
    """Write a LoRA with other metadata: {key: value}, None to drop it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    settings |= {f"unet.{key}": value for key, value in changes.items()}
    kept = {key: value for key, value in settings.items() if value is not None}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(kept)})


@pytest.fixture
def written(unet, tmp_path):
    """A LoRA file of the network."""
    add_adapter(unet, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(unet)
    path = tmp_path / "lora.safetensors"
    save_lora(path, unet)
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": -1}, "its rank is -1, not a positive integer"),
        ({"r": 0}, "its rank is 0"),
        ({"r": 2.0}, "its rank is 2.0"),
        ({"r": True}, "its rank is True"),
        ({"r": 4}, "states rank 4, but has tensors of another"),
        ({"r": 10**9}, "states rank 1000000000, but"),
        ({"r": None}, "must state unet.lora_alpha, unet.r, unet.target_modules"),
        ({"lora_alpha": None}, "must state"),
        ({"lora_alpha": 0}, "its alpha is 0, not a positive number"),
        ({"lora_alpha": -6.0}, "its alpha is -6.0"),
        ({"lora_alpha": float("nan")}, "its alpha is nan"),
        ({"lora_alpha": float("inf")}, "its alpha is inf"),
        ({"lora_alpha": "6"}, "its alpha is '6'"),
        ({"target_modules": None}, "must state"),
        ({"target_modules": []}, r"states \[\] in place of the layers' names"),
        ({"target_modules": ".*"}, "in place of the layers' names"),
        ({"target_modules": ["to_quack"]}, "not a LoRA of this network: .*to_quack"),
        ({"target_modules": ["to_q"]}, "to_k.lora_A.weight is unknown"),
        ({"target_modules": [*tiny.TARGETS, "conv2"]}, "conv2.lora_A.weight is missing"),
        ({"use_dora": True}, "and nothing else"),
    ],
)
def test_a_lora_that_states_what_it_is_not_is_refused(unet, written, changes, said):
    edited(written, **changes)
    with pytest.raises(UserError, match=said) as caught:
        load_lora(unet, written)
    assert "lora.safetensors" in str(caught.value) and "\n" not in caught.value.args[0]


@pytest.mark.parametrize(
    "kind",
    ["NaN", "infinity", "too large for 32 bits", "integers"]
    + ["half a pair", "a pair", "unknown", "shape", "twice", "none"],
)
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_a_lora_that_is_not_whole_and_finite_is_refused(unet, written, kind):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(written, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(written)
    down = next(key for key in tensors if key.endswith("to_q.lora_A.weight"))
    up = down.replace("_A.", "_B.")
    said = f"{down} is missing"
    if kind in ("NaN", "infinity"):
        tensors[down][0, 0], said = float(kind), f"{down} is not finite"
    elif kind == "too large for 32 bits":
        tensors[down], said = tensors[down].double() * 1e300, f"{down} is not finite"
    elif kind == "integers":
        tensors[down], said = tensors[down].to(torch.int8), f"{down} is of type int8"
    elif kind == "half a pair":
        del tensors[down]
    elif kind == "a pair":
        del tensors[down], tensors[up]
    elif kind == "unknown":
        tensors["unet.elsewhere.lora_A.weight"] = tensors[down].clone()
        said = "unet.elsewhere.lora_A.weight is unknown"
    elif kind == "shape":
        tensors[up], said = tensors[up][:-1].clone(), f"{up} has shape"
    elif kind == "twice":
        tensors[f"unet.{down}"], said = tensors[down].clone(), f"unet.{down} is unknown"
    else:
        tensors, said = {}, "is missing"
    save_file(tensors, written, metadata)
    with pytest.raises(UserError) as caught:
        load_lora(unet, written)
    assert said in str(caught.value) and str(written) in str(caught.value)
    assert said.endswith(("is not finite", "int8")) or not lora_parameters(unet)


@pytest.mark.parametrize("metadata", ["{", "[1]", "3"])
def test_a_lora_whose_metadata_is_not_an_object_is_refused(unet, written, metadata):
    from safetensors.torch import load_file, save_file

    save_file(load_file(written), written, {"lora_adapter_metadata": metadata})
    with pytest.raises(UserError, match="lora.safetensors cannot be loaded as a LoRA"):
        load_lora(unet, written)
    save_file(load_file(written), written)
    with pytest.raises(UserError, match="but states nothing"):
        load_lora(unet, written)
    written.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded as a LoRA"):
        load_lora(unet, written)
