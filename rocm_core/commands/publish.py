"""Folders of trained LoRAs as the hub wants them, each with its model card; nothing is uploaded.

`python -m rocm_core.commands.publish --configfile config/demo.yaml` writes
results/<name>/publish/<reward>--<method>--seed-<s>/ for every finished cell; `--cards` only their
README.md.
"""

import argparse
import fnmatch
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocm_core import __version__
from rocm_core.analysis import Results, Source, mean_interval, metric_label, only, paired_difference
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import Artefacts, load_config
from rocm_core.grid.models import default_chain, denoiser
from rocm_core.plugins import facts, load
from rocm_core.provenance import atomic_write, hash_inputs
from rocm_core.weights import files_of, table

TEMPLATE = Path(__file__).with_name("card.md.j2")
LORA = "pytorch_lora_weights.safetensors"  # where `load_lora_weights(folder)` looks
SAMPLES = 4
# The identifiers that the hub has for licences of the table of weights.
LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Open RAIL++": "openrail++",
    "CreativeML Open RAIL++-M": "openrail++",
    "CreativeML Open RAIL-M": "creativeml-openrail-m",
}
EMBEDDED = "resources/"  # this repository's own models, under its licence


def publish(
    config: Config,
    root: str | Path | None = None,
    cells: Sequence[str] = ("*",),
    cards: bool = False,
) -> list[Path]:
    """Write the folder of every finished cell that one of the patterns `cells` fits; cards: only
    its card. Raises `UserError` where there is none, and for a LoRA that is not its manifest's."""
    config = config.model_copy(update={"partial": True})
    results = Results(config, Artefacts(config, root).layout)
    chosen = [
        source
        for source in results.trained
        if any(fnmatch.fnmatchcase(source.name, pattern) for pattern in cells)
        and not (source.cell and source.cell.trial)  # of a search, which the chosen one repeats
        and results.layout.cell(source.name).manifest.exists()
        and results.lora(source).exists()  # which stop_by chooses after the training
    ]
    if not chosen:
        raise UserError(
            f"no finished cell of {results.root} fits {' '.join(cells)}: `make cells` lists them,"
            " `make watch` says which are finished"
        )
    return [_publish(results, source, cards) for source in chosen]


def _publish(results: Results, source: Source, cards: bool) -> Path:
    files = results.layout.cell(source.name)
    folder = results.root / "publish" / source.name.replace("/", "--")
    lora = results.lora(source)
    hash_inputs([lora])
    if not cards:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lora, folder / LORA)
        if lora == files.best:
            shutil.copyfile(files.choice, folder / files.choice.name)
        shutil.copyfile(files.manifest, folder / "manifest.json")
    samples = [(p.text, i) for p in results.prompts if (i := results.image(source, p.id))][:SAMPLES]
    shown = []
    for place, (text, image) in enumerate(samples if not cards else ()):
        (folder / "samples").mkdir(exist_ok=True)
        shutil.copyfile(image, folder / f"samples/{place}.png")
        shown.append((text, f"samples/{place}.png"))
    with atomic_write(folder / "README.md") as file:
        file.write(card(results, source, shown).encode())
    return folder


def card(results: Results, source: Source, samples: Sequence[tuple[str, str]] = ()) -> str:
    """The model card of a trained cell, in the hub's format.

    samples: (prompt, file beside the card) of images to show.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    assert source.cell is not None and source.reward is not None
    manifest = results.manifests[source.name]
    settings = manifest["settings"] | manifest.get("chosen", {})
    repo, licence = _origin(settings["model"])
    scores = list(_scores(results, source))
    title = f"{results.config.name}: {source.name}"
    embedded = settings["model"].startswith(EMBEDDED)
    data = ModelCardData(
        base_model=repo,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        license=LICENCES.get(licence or "", "other"),
        license_name=None if licence in LICENCES else licence or "unknown",
        tags=["lora", "text-to-image", "diffusers", "rlhf", "reward-model", settings["algorithm"]],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="text-to-image",
                dataset_type="prompts",
                dataset_name=f"{len(results.prompts)} validation prompts",
                metric_type=metric,
                metric_value=estimate.mean,
            )
            for metric, estimate, _ in scores
        ]
        or None,
    )
    wanted = ["learning_rate", "batch_size", "accumulation_steps", "iterations", "lora_rank"]
    wanted += ["lora_alpha", "inference_steps", "guidance_scale", "resolution", "seed"]
    text = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        base=repo or settings["model"],
        embedded=embedded,
        licence=licence,
        label=results.label(source.method),
        reward=metric_label(source.reward),
        settings={key: settings[key] for key in wanted if settings.get(key) is not None},
        divergence=settings["divergence"],
        beta=manifest["beta"],
        scores=[(metric_label(m), e.plus_minus(4), c.change()) for m, e, c in scores],
        prompts=len(results.prompts),
        samples=samples,
        manifest=manifest,
        lora=LORA,
        version=__version__,
        # Others are used as they were trained: in bfloat16 on a GPU, which has float32's range. So
        # have diffusers' examples of SANA-Sprint and FLUX.1; in float16 some networks overflow.
        precision="float32" if embedded else manifest.get("precision", "bfloat16"),
        **_pipeline(settings),
    )
    return str(text)


def _pipeline(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What makes diffusers' pipeline of a base model draw as the policy does."""
    chain, lora = settings["chain"], settings.get("model_lora")
    repo, licence = _origin(lora) if lora else (None, None)
    own = facts("chains", chain)["SCHEDULERS"] or (("DDIMScheduler",) if chain == "ddim" else ())
    steps, timesteps = settings["inference_steps"], settings.get("timesteps")
    call: dict[str, Any] = (
        {"timesteps": [*timesteps]} if timesteps else {"num_inference_steps": steps}
    )
    call["guidance_scale"] = settings["guidance_scale"]
    if size := settings.get("resolution"):
        call |= {"height": size, "width": size}
    if chain == "ddim":
        call["eta"] = load("chains", chain).ETA
    if chain == "tcd":  # of which pipelines have another default than their scheduler
        gamma = settings.get("gamma")
        call["eta"] = load("chains", chain).GAMMA if gamma is None else gamma
    if chain == "scm" and steps != 2:
        call["intermediate_timesteps"] = None
    return {
        "merged": repo or lora,
        "merged_licence": licence,
        "by_peft": denoiser(settings["model"]) == "pixart",  # whose pipeline loads no LoRA
        "scheduler": own[0] if own and default_chain(settings["model"]) != chain else None,
        "call": call,
    }


def _origin(model: str) -> tuple[str | None, str | None]:
    """The hub's repository of a base model, and its licence; None where they are not known."""
    if model.startswith(EMBEDDED):
        return None, "Apache-2.0"
    files = [table()[name] for name in files_of(model)]
    return (files[0].repo, files[0].licence) if files else (None, None)


def _scores(results: Results, source: Source) -> Iterator[tuple[str, Any, Any]]:
    """(metric, mean score, change against the base), where both are measured."""
    assert source.reward is not None
    base = results.base_of(source.reward, source.method)
    own = only(results.final, reward=source.reward, method=source.method, seed=source.seed)
    for metric in dict.fromkeys([*results.config.metrics, source.reward]):
        after = only(own, metric=metric).set_index("prompt_id")["value"]
        before = results.scores(base, metric)
        if any(after.index.isin(before.index)):
            yield metric, mean_interval(after), paired_difference(after, before)


def main() -> None:
    """Write the folders and print them."""
    parser = argparse.ArgumentParser(description="Folders of trained LoRAs, ready for the hub.")
    parser.add_argument("--configfile", required=True)
    parser.add_argument("--cells", nargs="+", default=["*"], help="patterns of cells; all")
    parser.add_argument("--cards", action="store_true", help="only the cards")
    args = parser.parse_args()
    config = load_config(args.configfile)
    folders = publish(config, cells=args.cells, cards=args.cards)
    print("\n".join(str(folder / "README.md" if args.cards else folder) for folder in folders))
    if not args.cards:
        print(f"Upload one with `hf upload <you>/<name> {folders[0]}`")


if __name__ == "__main__":
    run(main)
