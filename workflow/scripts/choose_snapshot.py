"""Choose the snapshot of a training that some scorers prefer: best.safetensors."""

import argparse
import json
from pathlib import Path

from rocm_core.analysis import choose_snapshot
from rocm_core.configuration import GenerationSettings
from rocm_core.errors import run
from rocm_core.evaluation import score_snapshots
from rocm_core.prompts import read_prompts
from rocm_core.provenance import (
    atomic_write,
    hash_inputs,
    record_beside,
    write_json,
    write_manifest,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="GenerationSettings, JSON"
    )
    parser.add_argument(
        "--scorers", type=json.loads, required=True, help="{scorer: weights or null}, JSON"
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True, help="how many of the first prompts")
    parser.add_argument("--snapshots", type=Path, required=True, help="folder of step-<n>")
    parser.add_argument("--output", type=Path, required=True, help="best.safetensors")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    settings = GenerationSettings.from_dict(args.settings)
    inputs = hash_inputs([args.prompts, *args.snapshots.glob("step-*.safetensors")])
    prompts = read_prompts(args.prompts)[: args.count]
    scores = score_snapshots(settings, args.scorers, prompts, args.snapshots)
    choice = choose_snapshot(scores)
    best = args.snapshots / f"step-{choice['chosen']}.safetensors"
    with atomic_write(args.output) as file:
        file.write(best.read_bytes())
    said = args.output.with_suffix(".json")
    on = {"by": [*args.scorers], "prompts": args.prompts.stem, "count": len(prompts)}
    write_json(said, choice | on)
    write_manifest(
        record_beside(args.output),
        settings=settings.to_dict() | {"scorers": args.scorers, "count": args.count},
        code=args.fingerprint,
        weights=[*settings.weights, *filter(None, args.scorers.values())],
        inputs=inputs,
        outputs=[args.output, said],
    )


if __name__ == "__main__":
    run(main)
