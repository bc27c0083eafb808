"""Model cards and folders for the hub, and the crate of a run, from results that are there."""

import json
import re
import shutil

import diffusers
import few_step
import pytest
import tiny
import torch
import yaml
from checkout import ROOT
from huggingface_hub import ModelCard
from synthetic import make_config, write_results

from rocm_core.commands.crate import TERMS, write_crate
from rocm_core.commands.publish import LICENCES, LORA, publish
from rocm_core.configuration import ModelSettings
from rocm_core.errors import UserError
from rocm_core.grid.models import default_chain
from rocm_core.policies import add_adapter, load_policy, save_lora
from rocm_core.provenance import sha256_file, write_manifest
from rocm_core.weights import files_of, table


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
        },
        methods={
            "rocm-none": {},
            "rocm-kl": {"beta": 0.05},
            "rocm-js": {"beta": {"search": [0.5, 1.0], "iterations": 40}},
        },
    )
    write_results(root, config, {("hpsv2", "rocm-kl"): {"hpsv2": 0.02, "gold": -0.3}}, size=8)
    for cell in ("rocm-kl", "rocm-none", "rocm-js--beta-0.5--iterations-40"):
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
    assert 'from_pretrained("SimianLuo/LCM_Dreamshaper_v7", torch_dtype=torch.bfloat16)' in text
    assert "num_inference_steps=4, guidance_scale=8.5" in text
    assert "β = 0.05 times the divergence `kl`" in text
    assert "| learning_rate | 6e-05 |" in text and "shekhar2025rocm" in text
    shown = sorted(folder.glob("samples/*.png"))
    assert len(shown) == 4 and all(f"]({file.relative_to(folder)})" in text for file in shown)


FEW_STEP = yaml.safe_load((ROOT / "config/few-step.yaml").read_text())["policies"]
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
FLOW = "FlowMatchEulerDiscreteScheduler"
TWINS = {
    "sdxl": "SDXL with guidance",  # without an embedding of the scale, as LCM-LoRA's base
    "pixart": "PixArt-LCM",
    "sana": "SANA-Sprint",
    "sd3": "SD3.5-turbo",
    "flux": "FLUX.1-schnell",
}


def card_of(root, name, policy, precision, lora=b"a LoRA", resolution=None):
    """The snippet of the card of a training on a policy as a configuration has it, and its data."""
    config = make_config(
        policies={name: policy},
        methods={f"direct-{name}-none": {}},
        rewards=["hpsv2"],
        resolution=resolution,
    )
    write_results(root, config)
    (file,) = root.glob("cells/hpsv2/*/seed-0/manifest.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"precision": precision}))
    file.with_name("lora.safetensors").write_bytes(lora)
    (folder,) = publish(config, root)
    card = ModelCard.load(folder / "README.md")
    (snippet,) = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
    return snippet.replace("path/of/this/folder", str(folder)), card.data.to_dict()


def test_every_few_step_model_has_a_licence_and_an_example_in_the_precision_of_its_training(
    tmp_path,
):
    assert TWINS.keys() == FEW_STEP.keys()
    for name, policy in FEW_STEP.items():
        snippet, data = card_of(tmp_path / name, name, policy, "bfloat16")
        (base, *_) = (table()[file] for file in files_of(policy["model"]))
        assert data["base_model"] == base.repo
        assert data["license"] == LICENCES.get(base.licence, "other")
        assert data["license"] == "openrail++" or "RAIL" not in base.licence
        assert f'"{base.repo}", torch_dtype=torch.bfloat16)' in snippet
        if "lora" in policy:
            (merged,) = (table()[file] for file in files_of(policy["lora"]))
            assert f'pipe.load_lora_weights("{merged.repo}")' in snippet
        compile(snippet, name, "exec")


@pytest.mark.parametrize(
    ("name", "merges"), [*((n, "lora" in p) for n, p in FEW_STEP.items()), ("pixart", True)]
)
def test_a_cards_example_draws_what_the_policy_draws(tmp_path, monkeypatch, name, merges):
    """On the tiny twin of each few-step model, with another LoRA merged into some."""
    twin, policy = few_step.TWINS[TWINS[name]], dict(FEW_STEP[name])
    made = few_step.pipeline(TWINS[name], few_step.write(tmp_path / "parts", TWINS[name]))
    if replaced := {"sdxl": "EulerDiscreteScheduler", "sd3": FLOW, "flux": FLOW}.get(name):
        kind = getattr(diffusers, replaced)  # that of the published model, which draws no noise
        made.scheduler = kind.from_config(made.scheduler.config)
        if replaced == FLOW:
            made.scheduler.register_to_config(stochastic_sampling=False)
    made.save_pretrained(tmp_path / "model")
    policy |= {"model": str(tmp_path / "model"), "guidance_scale": twin.guidance_scale}
    if merges:
        policy["lora"] = str(tmp_path / "merged")
        other = adapt(few_step.load(TWINS[name], tmp_path / "parts"), 0.2)
        file = tmp_path / "merged" / ("adapter_model.safetensors" if name == "pixart" else LORA)
        save_lora(file, other.network, name=other.denoiser.lora_name)
        stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 6.0, "target_modules": TARGETS}
        (tmp_path / "merged/adapter_config.json").write_text(json.dumps(stated))
    ours = adapt(load_policy(settings_of(policy, twin.pixels)), 0.3)
    save_lora(tmp_path / LORA, ours.network, name=ours.denoiser.lora_name)
    lora = (tmp_path / LORA).read_bytes()
    snippet, _ = card_of(tmp_path / "results", name, policy, "float32", lora, twin.pixels)
    names: dict = {}
    exec(snippet.replace("image = pipe(", f"image = pipe(**{twin.asked}, prompt="), names)
    assert names["image"].size == (twin.pixels, twin.pixels)
    prompts, noise = ["a red cat", "two dogs"], ours.noise(0, ["a", "b"], "test")
    theirs = few_step.their_images(TWINS[name], names["pipe"], prompts, noise, monkeypatch)
    with torch.no_grad():
        embeddings = ours.encode_prompts(prompts)
        drawn = ours.decode(ours.rollout(embeddings, noise).latents)
        with ours.reference():
            base = ours.decode(ours.rollout(embeddings, noise).latents)
    assert (drawn - theirs).abs().max() <= 1e-4 < 1e-3 < (drawn - base).abs().max()


@pytest.mark.parametrize(
    ("name", "policy", "said"),
    [
        ("diffusion", {"steps": 20}, ("DDIMScheduler", "eta=1.0")),
        ("hyper", {"steps": 8, "chain": "tcd"}, ("TCDScheduler", "eta=0.3")),
        ("hyper", {"steps": 8, "chain": "tcd", "gamma": 0.5}, ("TCDScheduler", "eta=0.5")),
        ("own", {"timesteps": [999, 749], "steps": 2}, ("LCMScheduler", "timesteps=[999, 749]")),
    ],
)
def test_a_card_names_the_scheduler_of_the_chain_and_what_it_is_asked(tmp_path, name, policy, said):
    policy = policy | {"model": "weights/stable-diffusion-v1-5", "guidance_scale": 1.0}
    if name != "diffusion":
        policy["lora"] = "weights/lcm-lora-sdv1-5"
    snippet, _ = card_of(tmp_path, name, policy, "bfloat16", resolution=512)
    scheduler, asked = said
    assert f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config)" in snippet
    assert asked in snippet and "height=512, width=512" in snippet
    assert ("num_inference_steps" in snippet) == ("timesteps" not in policy)
    assert ("pipe.fuse_lora()" in snippet) == (name != "diffusion")


def settings_of(policy, resolution):
    return ModelSettings(
        policy="consistency",
        model=policy["model"],
        model_lora=policy.get("lora"),
        chain=policy.get("chain") or default_chain(policy["model"]) or "lcm",
        inference_steps=policy["steps"],
        guidance_scale=policy["guidance_scale"],
        resolution=resolution,
    )


def adapt(policy, size):
    add_adapter(policy.network, 2, 6.0, TARGETS, seed=0)
    tiny.perturb(policy.network, size)
    return policy


def test_a_cell_of_which_no_snapshot_is_chosen_yet_is_not_finished(tmp_path):
    config = make_config(methods={"rocm-none": {"stop_by": "clipscore"}, "rocm-kl": {"beta": 0.1}})
    write_results(tmp_path, config, {})
    for cell in ("rocm-kl", "rocm-none"):
        (tmp_path / f"cells/hpsv2/{cell}/seed-0/lora.safetensors").write_bytes(b"a LoRA")
    published = publish(config, tmp_path, ["hpsv2/*"], cards=True)
    assert [folder.name for folder in published] == ["hpsv2--rocm-kl--seed-0"]


def test_cards_alone_copy_nothing_and_a_pattern_that_fits_nothing_is_refused(finished):
    config, root = finished
    (folder,) = publish(config, root, ["hpsv2/rocm-none/*"], cards=True)
    assert [file.name for file in folder.iterdir()] == ["README.md"]
    assert "times the divergence" not in (folder / "README.md").read_text()
    with pytest.raises(UserError, match="no finished cell of .* fits nothing"):
        publish(config, root, ["nothing"])
    every = {folder.name for folder in publish(config, root, cards=True)}
    assert every == {"hpsv2--rocm-kl--seed-0", "hpsv2--rocm-none--seed-0"}  # no try of a search


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
    for other in ("preflight/consistency", "publish/hpsv2--rocm-kl--seed-0"):  # of no job
        (tmp_path / other).mkdir(parents=True)
        shutil.copy(cell / "manifest.json", tmp_path / other)
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
    (cell / "manifest.json").write_text('{"settings": ')
    with pytest.raises(UserError, match=r"seed-0/manifest\.json is not a manifest"):
        write_crate(configfile, tmp_path)
