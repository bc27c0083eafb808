"""The published scorers, hpsv2 and image-reward, which check our own: envs/judges.txt has them.

They are called as their authors wrote them, one image after the other and without gradients; what
is arranged around them here is that they find their files on the disk and read them once.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import torch
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.provenance import located
from rocm_core.weights import (
    mismatches,
    require_finite,
    require_matching_keys,
    require_recorded,
)

ARCHITECTURE = "ViT-H-14"

PublishedScorer = Callable[[Path, str], float]


def load_published(name: str, weights: Path, device: str = "cpu") -> PublishedScorer:
    """A function (image file, prompt) → score of the published package behind a scorer of ours.

    Raises `UserError` for a scorer without one, and for weights or packages that are not there.
    """
    if name not in _SCORERS:
        raise UserError(
            f"published: {name!r} has no published package: it is {' or '.join(_SCORERS)}"
        )
    try:
        return _SCORERS[name](weights, device)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the published scorer {name} can't be imported ({error}): run `make judges`"
        ) from None


def _load_hpsv2(weights: Path, device: str) -> PublishedScorer:
    files = sorted(weights.glob("HPS_v2*.pt"))
    if len(files) != 1:
        raise UserError(f"{weights} must hold one HPS_v2*.pt: fetch it with `snakemake weights`")
    # It imports a name of turtle's that it never uses, and turtle a display's libraries.
    turtle = types.ModuleType("turtle")
    turtle.forward = None  # type: ignore[attr-defined]
    sys.modules.setdefault("turtle", turtle)
    from hpsv2 import img_score
    from hpsv2.src.open_clip import create_model_and_transforms

    model, _, preprocess = create_model_and_transforms(
        ARCHITECTURE, device=device, light_augmentation=True, output_dict=True
    )
    tensors = _read(files[0]).get("state_dict", {})
    require_matching_keys(files[0], *mismatches(tensors, model.state_dict()))
    model.load_state_dict(tensors)
    img_score.device = device

    def score(image: Path, prompt: str) -> float:
        # It has one model at a time, and would read its checkpoint again for every call.
        img_score.model_dict.update(model=model, preprocess_val=preprocess)
        with (
            mock.patch.object(torch, "load", return_value={"state_dict": None}),
            mock.patch.object(model, "load_state_dict"),
        ):
            return float(img_score.score(str(image), prompt, cp=str(files[0]))[0])

    return score


def _load_imagereward(weights: Path, device: str) -> PublishedScorer:
    tensors = _read(weights / "ImageReward.pt")
    import ImageReward
    from ImageReward.models.BLIP import blip
    from transformers import BertTokenizer

    # The package asks the hub for bert-base-uncased by name.
    local = types.SimpleNamespace(
        from_pretrained=lambda _: BertTokenizer.from_pretrained(str(weights / "tokenizer"))
    )
    with (
        mock.patch.object(blip, "BertTokenizer", local),
        mock.patch.object(torch, "load", return_value=tensors),
        contextlib.redirect_stdout(sys.stderr),
    ):
        model = ImageReward.load(
            str(weights / "ImageReward.pt"), device, med_config=str(weights / "med_config.json")
        )
    # The package loads what fits and prints the rest.
    require_matching_keys(weights / "ImageReward.pt", *mismatches(tensors, model.state_dict()))

    def score(image: Path, prompt: str) -> float:
        with torch.no_grad():
            return float(model.score(prompt, str(image)))

    return score


def _read(file: Path) -> dict[str, Any]:
    """A checkpoint's content, without running code; raises `UserError` where it is not recorded,
    cannot be read or is not finite."""
    require_recorded(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        require_finite(file, content.get("state_dict", content))
    except (AttributeError, EOFError, LookupError, RuntimeError, UnpicklingError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{file} cannot be read as weights ({reason}): fetch it again") from None
    return content


def score_folder_published(
    scorers: Mapping[str, str | Path], samples: Path, output: Path, fingerprint: str
) -> None:
    """Score the images that samples/index.jsonl lists: prompt_id, metric, value, in `output`, with
    its manifest beside it; scores that this job would make again are left as they are.

    scorers: {name: its weights}. Raises `UserError` as `score_folder` does.
    """
    from rocm_core.evaluation.job import pick_device, plain_paths
    from rocm_core.evaluation.scores import Sample, write_rows

    def rows_of(images: list[Sample]) -> Iterator[tuple]:
        for name, weights in scorers.items():
            score = load_published(name, located(weights), pick_device())
            for image in tqdm(images, desc=name, unit="image", disable=None):
                yield (*image.key, name, score(image.file, image.text))

    settings = {"scorers": plain_paths(scorers)}
    write_rows(samples, output, fingerprint, settings, list(scorers.values()), rows_of)


_SCORERS: Mapping[str, Callable[[Path, str], PublishedScorer]] = {
    "hpsv2": _load_hpsv2,
    "hpsv2_0": _load_hpsv2,
    "imagereward": _load_imagereward,
}
