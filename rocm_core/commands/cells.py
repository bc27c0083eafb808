"""Print the cells of a configuration."""

import argparse

from rocm_core.errors import run
from rocm_core.grid import load_config, make_grid, table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", required=True)
    print(table(make_grid(load_config(parser.parse_args().configfile))))


if __name__ == "__main__":
    run(main)
