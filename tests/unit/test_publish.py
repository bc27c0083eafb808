"""Model cards and folders for the hub, and the crate of a run, from results that are there."""

import json
import shutil

import pytest
from checkout import ROOT
from huggingface_hub import ModelCard
from synthetic import make_config, write_results

from rocm_core.commands.crate import TERMS, write_crate
from rocm_core.commands.publish import LORA, publish
from rocm_core.errors import UserError
from rocm_core.provenance import sha256_file, write_manifest


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    config = make_config(
        policies={
            "consistency": {
                "model": "weights/LCM_Dreamshaper_v7",
                "steps": 4,
                "guidance_scale": 8.5,
            }
        }
    )
    write_results(root, config, {("hpsv2", "rocm-kl"): {"hpsv2": 0.02, "gold": -0.3}})
    for cell in ("rocm-kl", "rocm-none"):
        (root / f"cells/hpsv2/{cell}/seed-0/lora.safetensors").write_bytes(b"a LoRA")
    return config, root


def test_a_folder_is_ready_for_the_hub_with_a_card_in_its_format(finished):
    config, root = finished
    (folder,) = publish(config, root, ["hpsv2/rocm-kl/*"])
    assert folder == root / "publish/hpsv2--rocm-kl--seed-0"
    assert (folder / LORA).read_bytes() == b"a LoRA"
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "SimianLuo/LCM_Dreamshaper_v7"
    assert data["license"] == "mit" and data["library_name"] == "diffusers"
    assert {"lora", "text-to-image", "rlhf", "direct"} <= set(data["tags"])
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results.keys() == {"gold", "hpsv2", "aesthetic", "clipscore"}
    text = card.text
    (gold,) = (line for line in text.splitlines() if line.startswith("| Gold judge "))
    assert f"| {results['gold']:.4f} ± " in gold and "| −0.30" in gold
    assert 'from_pretrained("SimianLuo/LCM_Dreamshaper_v7", torch_dtype=torch.float16)' in text
    assert "num_inference_steps=4, guidance_scale=8.5" in text
    assert "β = 0.05 times the divergence `kl`" in text
    assert "| learning_rate | 6e-05 |" in text and "shekhar2025rocm" in text
    shown = sorted(folder.glob("samples/*.png"))
    assert len(shown) == 4 and all(f"]({file.relative_to(folder)})" in text for file in shown)


def test_cards_alone_copy_nothing_and_a_pattern_that_fits_nothing_is_refused(finished):
    config, root = finished
    (folder,) = publish(config, root, ["hpsv2/rocm-none/*"], cards=True)
    assert [file.name for file in folder.iterdir()] == ["README.md"]
    assert "times the divergence" not in (folder / "README.md").read_text()
    with pytest.raises(UserError, match="no finished cell of .* fits nothing"):
        publish(config, root, ["nothing"])


def test_a_card_wants_the_prompts_that_its_scores_are_of(finished, tmp_path):
    config, root = finished
    shutil.copytree(root / "cells", tmp_path / "cells")
    with pytest.raises(UserError, match=r"validation\.jsonl does not exist: finish the run first$"):
        publish(config, tmp_path)


def test_a_run_is_a_workflow_run_crate(tmp_path):
    from rocrate.rocrate import ROCrate

    configfile = ROOT / "config/demo.yaml"
    with pytest.raises(UserError, match="holds no manifests yet"):
        write_crate(configfile, tmp_path)
    cell = tmp_path / "cells/hpsv2/rocm-kl/seed-0"
    cell.mkdir(parents=True)
    (cell / "lora.safetensors").write_bytes(b"a LoRA")
    (cell / "one.png").write_bytes(b"an image")
    files = [cell / "lora.safetensors", cell / "one.png"]
    write_manifest(cell / "manifest.json", settings={}, code="c0de", outputs=files)
    for _ in range(2):  # again over the first
        write_crate(configfile, tmp_path)
    crate = ROCrate(tmp_path)
    assert crate.mainEntity.id == "code/Snakefile"
    assert {"ComputationalWorkflow"} <= set(crate.mainEntity.type)
    (run,) = crate.root_dataset["mentions"]
    assert run["instrument"] is crate.mainEntity
    made = {file.id: file["sha256"] for file in run["result"]}
    assert made == {
        str(file.relative_to(tmp_path)): sha256_file(file)
        for file in (cell / "manifest.json", cell / "lora.safetensors")
    }
    assert [file.id for file in run["object"]] == ["code/demo.yaml"]
    written = json.loads((tmp_path / "ro-crate-metadata.json").read_text())
    assert written["@context"] == ["https://w3id.org/ro/crate/1.1/context", TERMS]
    for entity in written["@graph"]:
        if "File" in entity["@type"]:
            assert (tmp_path / entity["@id"]).is_file()
