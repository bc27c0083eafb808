"""Weights are those that the manifest lists, or the run ends before they are used."""

import pytest

from rocm_core.errors import UserError
from rocm_core.provenance import sha256_file, write_json
from rocm_core.weights import check_weights


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "consistency"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(bytes(1000))
    (folder / "model_index.json").write_text("{}")
    names = ["unet/model.safetensors", "model_index.json"]
    listing = {f"consistency/{name}": sha256_file(folder / name) for name in names}
    write_json(tmp_path / "MANIFEST.json", listing)
    return folder


def refusal(path):
    with pytest.raises(UserError) as error:
        check_weights(path)
    return str(error.value)


def test_weights_as_listed_pass(weights):
    check_weights(weights)
    check_weights(weights / "unet" / "model.safetensors")


def test_a_truncated_file_is_named_with_its_size(weights):
    (weights / "unet" / "model.safetensors").write_bytes(bytes(999))
    for path in (weights, weights / "unet", weights / "unet" / "model.safetensors"):
        message = refusal(path)
        assert "unet/model.safetensors (999 bytes) is truncated or changed" in message


def test_a_changed_file_of_the_same_size_is_found(weights):
    (weights / "model_index.json").write_text("[]")
    assert "model_index.json (2 bytes) is truncated or changed" in refusal(weights)


def test_a_missing_file_or_folder_is_named(weights):
    (weights / "unet" / "model.safetensors").unlink()
    assert "unet/model.safetensors is missing" in refusal(weights)
    assert "nothing do not exist" in refusal(weights.parent / "nothing")


def test_a_file_that_is_not_listed_is_refused(weights):
    (weights / "unet" / "model.bin").write_bytes(b"code")
    assert "unet/model.bin is not listed" in refusal(weights)


def test_a_file_behind_a_link_is_one_of_the_weights(weights, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.bin").write_bytes(b"code")
    (weights / "vae").symlink_to(tmp_path / "elsewhere")
    assert "vae/model.bin is not listed" in refusal(weights)


def test_weights_without_a_manifest_need_only_exist(weights):
    (weights.parent / "MANIFEST.json").unlink()
    check_weights(weights)


def test_a_broken_manifest_is_named(weights):
    (weights.parent / "MANIFEST.json").write_text("[1]")
    assert "MANIFEST.json must map file names to sha256" in refusal(weights)
