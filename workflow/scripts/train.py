"""Train one cell: its LoRA, snapshots, history and manifest."""

import argparse
import json
from pathlib import Path

from rocm_core.algorithms import load_settings
from rocm_core.configuration import ProgressSettings
from rocm_core.errors import run
from rocm_core.jobs import Progress
from rocm_core.prompts import read_prompts
from rocm_core.provenance import read_entry
from rocm_core.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--settings", type=json.loads, required=True, help="of the cell, JSON")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the cell's folder")
    parser.add_argument("--state", type=Path, required=True, help="folder of unfinished training")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    parser.add_argument("--choice", type=Path, help="what a search chose for the settings, JSON")
    parser.add_argument("--standards", type=Path, help="how the base scores, JSON")
    parser.add_argument("--stop-after", type=int, help="save and stop after this many steps")
    parser.add_argument("--keep-state", action="store_true", help="also after success")
    parser.add_argument("--progress", type=json.loads, default={}, help="ProgressSettings, JSON")
    parser.add_argument("--run", type=Path, help="folder of what is seen of the running training")
    parser.add_argument("--name", default="", help="of the training, as people read it")
    parser.add_argument("--project", default="rocm", help="of the training, among trackers'")
    parser.add_argument("--terminal", type=int, help="file descriptor for progress beside stderr")
    args = parser.parse_args()
    shown = ProgressSettings.from_dict(args.progress)
    chosen = read_entry(args.choice, "chosen") if args.choice else {}
    standards = read_entry(args.standards, "scorers") if args.standards else None
    train(
        load_settings(args.settings),
        read_prompts(args.prompts),
        args.output,
        args.state,
        args.fingerprint,
        args.stop_after,
        args.keep_state,
        chosen,
        [args.prompts, *filter(None, [args.choice, args.standards])],
        standards=standards,
        progress=Progress(
            shown,
            args.run or args.output.with_name(f"{args.output.name}.run"),
            args.name,
            args.project,
            args.terminal,
        ),
    )


if __name__ == "__main__":
    run(main)
