"""Check a configuration, say where its results are, or print the schema or the page of all keys."""

import argparse

from rocm_core.configuration import document, schema_text
from rocm_core.errors import run
from rocm_core.grid import load_config, make_grid
from rocm_core.provenance import Layout


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--configfile", help="check this file")
    what.add_argument("--results", metavar="CONFIGFILE", help="print where its results are")
    what.add_argument("--document", action="store_true", help="print docs/configuration.md")
    what.add_argument("--schema", action="store_true", help="print the JSON schema of the keys")
    arguments = parser.parse_args()
    if arguments.document:
        print(document(), end="")
    elif arguments.schema:
        print(schema_text(), end="")
    elif arguments.results:
        layout = Layout(load_config(arguments.results).root)
        print(f"Report:  {layout.rendered('report')[0]}")
        print(f"Tables:  {layout.root / 'tables'}/")
        print(f"Figures: {layout.root / 'figures'}/")
    else:
        config = load_config(arguments.configfile)
        count = len(make_grid(config))
        print(f"{arguments.configfile} is valid: {count} cell{'s' * (count != 1)}")


if __name__ == "__main__":
    run(main)
