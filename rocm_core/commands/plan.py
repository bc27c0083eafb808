"""What a configuration would run, cost and decide, before anything is paid for.

`python -m rocm_core.commands.plan --configfile config/paper.yaml`, or `make plan CONFIG=…`: without
a GPU, weights or a network, and in twenty lines at most; `--claims`, or `PLAN=--claims`, adds a
line about each claim, and `--seeds 10 20` its power with other numbers of seeds. Rehearsing the
claims takes most of its time, half a minute of one core for the paper's grid, and minutes with more
seeds. Jobs are those that Snakemake still has to run; costs and claims are those of the whole grid.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rocm_core.claims import Prospect, derive, prospects, seconds_per_pass
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import (
    GPUS,
    REACHED,
    UNKNOWN_PROMPTS,
    budget_of,
    costs_of,
    load_config,
    make_grid,
    needed,
)
from rocm_core.plugins import ROOT
from rocm_core.weights import to_fetch

SNAKEFILE = ROOT / "Snakefile"
POWER = 0.8
WIDEST = 100


def plan(configfile: str, each: bool = False, seeds: Collection[int] = ()) -> Iterator[str]:
    """The plan in lines, `each` claim in lines of its own after it, also with other numbers of
    `seeds`. Raises `UserError` where Snakemake has no plan."""
    config = load_config(configfile)
    planning = dry_run(configfile) if SNAKEFILE.exists() else None  # beside the rehearsals
    found = prospects(config)
    yield from jobs(planning) if planning else ["jobs: unknown without the Snakefile of a clone"]
    yield from costs(config)
    yield from claims(config, found)
    if each or seeds:
        others = {count: prospects(with_seeds(config, count)) for count in seeds}
        yield from each_claim({len(config.seeds): found} | others)


def with_seeds(config: Config, count: int) -> Config:
    """The configuration with so many training seeds."""
    return config.model_copy(update={"seeds": tuple(range(count))})


def dry_run(configfile: str) -> subprocess.Popen[str]:
    """Snakemake's own plan, while it is made."""
    command = [sys.executable, "-m", "snakemake", "-n", "all", "--configfile", configfile]
    command += ["-s", str(SNAKEFILE), "--quiet", "rules"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def jobs(planning: subprocess.Popen[str]) -> Iterator[str]:
    """Jobs by rule, those of rules with one job together."""
    out, error = planning.communicate()
    if planning.returncode:
        said = [line for line in (error + out).splitlines() if line.strip()]
        ours = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise UserError(f"Snakemake has no plan: {[*said, *ours][-1]}")
    counts = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", out, re.M)}
    for sum_of_others in ("total", "all"):
        counts.pop(sum_of_others, None)
    single = [rule for rule, count in counts.items() if count == 1]
    several = {rule: count for rule, count in counts.items() if count > 1}
    if single:
        several["rules of one job each"] = len(single)
    yield f"jobs: {sum(counts.values())}"
    yield from _columns([f"{count:6}  {rule}" for rule, count in several.items()], 3)


def costs(config: Config) -> Iterator[str]:
    """Hours of computing and bytes of disk, in lines."""
    needs = budget_of(config)
    guess = f", {UNKNOWN_PROMPTS} each of {' and '.join(needs.guessed)}" if needs.guessed else ""
    gigabytes = (needs.image_bytes + needs.lora_bytes) / 1e9
    if config.world == "paper":
        exaflop = {name: teraflop / 1e6 for name, teraflop in needs.teraflop.items()}
        parts = ", ".join(f"{name} {value:.2g}" for name, value in exaflop.items() if value)
        yield f"operations: {sum(exaflop.values()):.3g} EFLOP ({parts})"
        yield "GPU hours, at a fifth and at a tenth of the peak in bfloat16:"
        of_gpus = []
        for gpu, peak in GPUS.items():
            low, high = (sum(exaflop.values()) * 1e6 / peak / share / 3600 for share in REACHED)
            of_gpus.append(f"{low:6,.0f} – {high:,.0f}  {gpu}")
        yield from _columns(of_gpus, 3)
        yield from priced(config)
        yield f"disk: {gigabytes:.3g} GB of results, with {needs.images:,} images{guess}"
        yield f"weights and prompts {to_fetch(needed(config))}"
    else:
        passes = sum(work.forward + work.backward for work in needs.work.values())
        hours = passes * seconds_per_pass() / 3600
        yield f"CPU hours: {hours:.2g} of one core like the study's, and the start of each job"
        yield f"disk: less than {gigabytes:.2g} GB of results, with {needs.images:,} images{guess}"


def priced(config: Config) -> Iterator[str]:
    """As which network each policy's passes and memory are reckoned, in lines."""
    policies = sorted({cell.settings.policy for cell in make_grid(config)})
    known = {policy: costs_of(config, policy) for policy in policies}
    yield "networks, and memory to train one image with a divergence, checkpointed by:"
    said = []
    for policy, own in known.items():
        if own is None:
            model = config.policies[policy].model
            said.append(f"  {policy}: {model} is unknown: nothing of it is counted")
            continue
        side = config.resolution or own.side
        modes = zip(("steps", "blocks"), own.memory.get(side, ()), strict=False)
        memory = ", ".join(f"{mode} {gib} GiB" for mode, gib in modes)
        said.append(f"  {policy}: {own.name}, {memory or f'unknown at {side} pixels'}")
    yield from _columns(said, 2)


def claims(config: Config, found: Sequence[Prospect]) -> Iterator[str]:
    """Which claims have a chance of a verdict, in lines."""
    decidable = [one for one in found if one.missing is None]
    alone = ", about these training runs alone (one seed)" if len(config.seeds) == 1 else ""
    yield f"claims that the results can decide: {len(decidable)} of {len(found)}{alone}"
    kinds = {
        f"power of {POWER:g} or more": [one for one in decidable if one.power >= POWER],
        "less power": [one for one in decidable if one.power < POWER],
        "not decidable (--claims says why)": [one for one in found if one.missing],
    }
    for kind, ones in kinds.items():
        if ones:
            yield from _wrapped(f"  {kind}: {', '.join(one.claim.id for one in ones)}", 4)


def each_claim(found: Mapping[int, Sequence[Prospect]]) -> Iterator[str]:
    """What each claim has to expect, in lines, from its prospects by the number of seeds: its
    powers and text, or what is missing."""
    counts = sorted(found)
    if len(counts) > 1:
        yield "power by number of seeds:"
        yield "".join(f"  {count:4}" for count in counts)
    claims = [*zip(*(found[count] for count in counts), strict=True)]
    decidable = [any(one.missing is None for one in ones) for ones in claims]
    for wanted in (True, False):
        for ones in (ones for ones, can in zip(claims, decidable, strict=True) if can is wanted):
            powers = "".join("     –" if one.missing else f"  {one.power:4.2f}" for one in ones)
            told = ones[-1].claim.text if wanted else ones[-1].missing
            yield from _wrapped(f"{powers}  {ones[-1].claim.id:3}  {told}", len(powers) + 7)


def _columns(cells: Sequence[str], columns: int) -> Iterator[str]:
    """Cells in rows of so many, or of as many as fit, as wide as the widest."""
    width = max(map(len, cells), default=0)
    columns = max(1, min(columns, _width() // max(1, width)))
    for row in range(0, len(cells), columns):
        yield "".join(f"{cell:{width}}" for cell in cells[row : row + columns]).rstrip()


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        _width(),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int:
    """Of the terminal, where that is narrower."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns)


def _seeds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of seeds: give 1 or more")
    return int(text)


def main() -> None:
    """Print the plan, or the record of the study that powers are from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", required=True)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="docs/results/shapes",
        help="print rocm_core/claims/study.json, made of what is published of the study that"
        " --configfile describes",
    )
    parser.add_argument(
        "--claims",
        action="store_true",
        help="also list each claim with its power, or with what is missing for it",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        nargs="+",
        default=(),
        metavar="10",
        help="list the claims with their power for other numbers of training seeds, too",
    )
    given = parser.parse_args()
    if given.record:
        record = derive(load_config(given.configfile), given.record)
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return
    for line in plan(given.configfile, given.claims, given.seeds):
        print("\n".join(_wrapped(line, 4)))


if __name__ == "__main__":
    run(main)
