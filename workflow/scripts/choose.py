"""Choose what a search tried: the settings that the final training takes."""

import argparse
import json
from pathlib import Path

from rocm_core.analysis import Trained, choose
from rocm_core.configuration import Ensemble
from rocm_core.errors import run
from rocm_core.provenance import hash_inputs, read_entry, record_beside, write_json, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--trained", type=json.loads, required=True, help="reward, used and ensemble, JSON"
    )
    parser.add_argument("--standards", type=Path, help="by which an ensemble is standardised")
    parser.add_argument("--tried", type=json.loads, required=True, help="settings per trial, JSON")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="of each trial")
    parser.add_argument("--base", type=Path, required=True, help="scores of the base model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    inputs = hash_inputs([args.base, *args.scores, *filter(None, [args.standards])])
    ensemble = args.trained["ensemble"]
    trained = Trained(
        args.trained["reward"],
        args.trained["used"],
        ensemble and Ensemble.from_dict(ensemble),
        args.standards and read_entry(args.standards, "scorers"),
    )
    trials = list(zip(args.tried, args.scores, strict=True))
    write_json(args.output, choose(trained, trials, args.base))
    write_manifest(
        record_beside(args.output),
        settings={"tried": args.tried},
        code=args.fingerprint,
        inputs=inputs,
        outputs=[args.output],
    )


if __name__ == "__main__":
    run(main)
