"""The page of a study, made from folders of samples."""

import hashlib
import itertools
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from PIL import Image, UnidentifiedImageError

from rocm_core.analysis import halves
from rocm_core.configuration import Contest, StudySettings
from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.provenance import (
    StudyFiles,
    atomic_write,
    hash_inputs,
    record_beside,
    write_manifest,
)
from rocm_core.study.best import best
from rocm_core.study.design import Key, Pair, choose_prompts, identify, make_pairs, make_raters

ASSETS = Path(__file__).with_name("page")
SECRET = "secret"


def build(
    settings: StudySettings,
    samples: Mapping[str, Path],
    prompts: Sequence[Prompt],
    output: Path,
    fingerprint: str = "",
    contests: Mapping[str, Contest] = MappingProxyType({}),
    validation: Sequence[Prompt] = (),
) -> Key:
    """Write `page/`, ready to be opened or served, then `key.json` and its manifest to `output`.

    samples: {model: folder with <prompt id>.png and index.jsonl}, all made from `prompts`.
    contests: of each name in the comparisons that stands for the best of several models; these are
    compared on the first half of the `validation` prompts, of which none is shown.
    A file `secret` of an earlier build in `output` is kept, and the rest of it until the new page
    is whole. Images get random names and are re-encoded without their metadata. fingerprint: of the
    code. Raises `UserError` for samples that do not match, or are not those of their manifests.
    """
    pool = prompts
    if contests and settings.prompts == "validation":
        _, left = halves([prompt.id for prompt in prompts])
        pool = [prompt for prompt in prompts if prompt.id in {*left}]
    chosen = choose_prompts(pool, settings.pairs, settings.shares, settings.seed)
    choices = {name: best(contest, validation, chosen) for name, contest in contests.items()}
    models = {name: choice["model"] for name, choice in choices.items()}
    comparisons = tuple((models.get(a, a), models.get(b, b)) for a, b in settings.comparisons)
    for name in itertools.chain(*comparisons):
        if name not in samples:
            raise UserError(f"the study compares {name}, but no folder of its samples is given")
    secret = _secret(output)
    texts = {prompt.id: prompt.text for prompt in chosen}
    pairs: dict[str, Pair] = {}
    sources: dict[str, Path] = {}  # of each image id
    for number, names in enumerate(comparisons):
        one, other = (_images(samples[name], chosen) for name in names)
        files = list(zip(one, other, strict=True))
        digests = [(_digest(first), _digest(second)) for first, second in files]
        for pair, both in zip(make_pairs(number, chosen, digests, secret), files, strict=True):
            pairs[pair.id] = pair
            sources |= dict(zip((pair.first, pair.second), both, strict=True))
    scores = [path for one in contests.values() for path in (one.base, *one.scores.values())]
    indices = [file.parent / "index.jsonl" for file in sources.values()]
    inputs = hash_inputs([*indices, *sources.values(), *map(Path, scores)])
    layout = StudyFiles(output)
    folder = layout.page.with_name(".page")  # until it is whole
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    for name, file in sorted(sources.items()):  # in the order of the random names
        with Image.open(file) as image:
            plain = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
        plain.save(folder / "images" / f"{name}.png")
    for asset in sorted(ASSETS.iterdir()):
        shutil.copyfile(asset, folder / asset.name)
    material = {
        "ties": settings.ties,
        "pairs": [
            {"id": pair.id, "prompt": texts[pair.prompt], "sides": pair.sides}
            for pair in sorted(pairs.values(), key=lambda pair: pair.id)
        ],
    }
    study = identify(secret, "study", json.dumps(material), json.dumps(_files(folder)))
    script = f"const MATERIAL = {json.dumps({'study': study, **material})};\n"
    (folder / "material.js").write_bytes(script.encode())
    key = Key(
        study=study,
        ties=settings.ties,
        comparisons=comparisons,
        raters={rater.code: rater for rater in make_raters(settings.raters, secret)},
        pairs=pairs,
        files=_files(folder),
        chosen=choices,
    )
    record = record_beside(layout.key)
    for old in (layout.key, record):
        old.unlink(missing_ok=True)
    shutil.rmtree(layout.page, ignore_errors=True)
    folder.rename(layout.page)
    key.write(output)
    write_manifest(
        record,
        settings=settings.to_dict(),
        code=fingerprint,
        inputs=inputs,
        outputs=[layout.key, *(layout.page / name for name in key.files)],
        extra={"chosen": choices},
    )
    record.chmod(0o600)  # like the key, it tells whose an image is: their hashes may be the same
    return key


def _files(folder: Path) -> dict[str, str]:
    """{relative name: sha256} of a page's files, sorted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _secret(output: Path) -> str:
    path = output / SECRET
    if not path.exists():
        with atomic_write(path) as file:
            Path(file.name).chmod(0o600)
            file.write(secrets.token_hex(32).encode())
    return path.read_text()


def _images(folder: Path, prompts: Sequence[Prompt]) -> list[Path]:
    """The image of each prompt, as the folder's index lists them."""
    path = folder / "index.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")
        rows = [json.loads(line) for line in lines]
        index = {row["prompt_id"]: (row["text"], folder / row["file"]) for row in rows}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: generate the images first") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not an index of images ({error}): generate the images again"
        ) from None
    for prompt in prompts:
        text, file = index.get(prompt.id, (None, folder))
        if text != prompt.text or not file.is_file():
            raise UserError(
                f"{folder} has no image of the prompt {prompt.id} ({prompt.text[:60]!r}):"
                " generate its images again"
            )
    return [index[prompt.id][1] for prompt in prompts]


def _digest(path: Path) -> str:
    """sha256 of an image's pixels."""
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not a readable image ({error}): generate it again") from None
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
