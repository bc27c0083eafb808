"""Render one table, one figure, the claims or the report from the results of a configuration."""

import argparse
import json
from pathlib import Path

from rocm_core.commands.render import render
from rocm_core.configuration import type_config
from rocm_core.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("kind", choices=["table", "figure", "claims", "report"])
    parser.add_argument("name")
    parser.add_argument("--config", type=json.loads, required=True, help="configuration, JSON")
    parser.add_argument("--results", type=Path, help="folder of results: the configuration's own")
    parser.add_argument("--output", type=Path, required=True, help="path without a suffix")
    parser.add_argument("--fingerprint", default="", help="of the code, for the manifest")
    args = parser.parse_args()
    config = type_config(args.config)
    root = args.results or config.root
    render(args.kind, args.name, config, root, args.output, args.fingerprint)


if __name__ == "__main__":
    run(main)
