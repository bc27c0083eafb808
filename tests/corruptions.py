"""Ways to corrupt the run of `CONFIG` that `finished_run` writes, by accident or by hand: functions
of its folder, by which `verify` is tested."""

import json

from rocm_core.prompts import Prompt
from rocm_core.provenance import sealed, sha256_file

CONFIG = {
    "name": "run",
    "policies": {
        "consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0},
        "diffusion": {"model": "teacher", "steps": 4, "guidance_scale": 3.0},
    },
    "scorers": {"hpsv2": None, "gold": None},
    "published": ["hpsv2"],
    "prompts": {
        "train": {"source": "shapes", "count": 3},
        "validation": {"source": "shapes", "count": 3},
    },
    "rewards": ["hpsv2"],
    "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.05}, "ddpo": {}},
    "training": {"iterations": 4, "snapshot_every": 2},
    "snapshots": {"prompts": 2},
    "study": {
        "comparisons": [["hpsv2/rocm-kl/seed-0", "hpsv2/rocm-none/seed-0"]],
        "pairs": 2,
    },
}
PROMPTS = {
    name: [Prompt(f"{i:05d}", f"{name} {i}", "shapes") for i in range(3)]
    for name in ("train", "validation")
}
A, B = "hpsv2/rocm-kl/seed-0", "hpsv2/rocm-none/seed-0"
CELL, OTHER = f"cells/{A}", f"cells/{B}"
IMAGES, OTHERS = (f"samples/{source}/validation/steps-4" for source in (A, B))
BASE, TEACHER = (
    f"samples/base-{policy}/validation/steps-4" for policy in ("consistency", "diffusion")
)
SNAPSHOTS, SNAPSHOTS_B = f"samples/{A}/snapshots", f"samples/{B}/snapshots"


def swap(*pairs):
    """Exchange files or folders."""

    def corrupt(root):
        for one, other in pairs:
            (root / one).rename(root / "aside")
            (root / other).rename(root / one)
            (root / "aside").rename(root / other)

    return corrupt


def swap_in(folder, other, *names):
    return swap(*((f"{folder}/{name}", f"{other}/{name}") for name in names))


def put(name, text):
    """Write a file anew."""
    return lambda root: (root / name).write_text(text)


def edit(name, old, new):
    def corrupt(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return corrupt


def halve(name):
    def corrupt(root):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])

    return corrupt


def drop_line(name):
    return lambda root: (root / name).write_text(
        "".join((root / name).read_text().splitlines(keepends=True)[:-1])
    )


def state(manifest, key, value):
    """Have a manifest say something else."""

    def corrupt(root):
        content = json.loads((root / manifest).read_text())
        assert content.get(key) != value
        (root / manifest).write_text(json.dumps(content | {key: value}))

    return corrupt


def restate(manifest, key, value):
    """The same, by somebody who knows of the manifest's own digest."""

    def corrupt(root):
        state(manifest, key, value)(root)
        seal(root / manifest)

    return corrupt


def relist(corrupt, manifest):
    """A corruption by somebody who mends the manifest of the file."""

    def both(root):
        corrupt(root)
        seal(root / manifest)

    return both


def seal(path):
    """Have a manifest list its files as they are; whether that changes it."""
    content = json.loads(path.read_text())
    content["outputs"] = {name: sha256_file(path.parent / name) for name in content["outputs"]}
    after = json.dumps(sealed(content))
    changes = json.loads(after) != json.loads(path.read_text())
    path.write_text(after)
    return changes


SCORE = edit(f"{IMAGES}/scores.csv", "00001,gold,0.5", "00001,gold,0.9")
PICTURE = put(f"{IMAGES}/00001.png", "a better one")
LORA = put(f"{CELL}/lora.safetensors", "a better one")
PROMPT = edit("prompts/validation.jsonl", "validation 1", "validation I")
