"""`python -m rocm_core.study build | serve | aggregate | simulate`"""

import argparse
import contextlib
import json
import resource
import signal
from pathlib import Path

from rocm_core.errors import run
from rocm_core.provenance import StudyFiles

STUDY = "the study's folder, such as results/demo/study"
CODE = "of the code, for the manifest"


def main() -> None:
    """Run one of the study's commands."""
    parser = argparse.ArgumentParser(
        prog="python -m rocm_core.study", description=__doc__, fromfile_prefix_chars="@"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make the page from folders of samples")
    build.add_argument("--settings", type=json.loads, required=True, help="StudySettings, JSON")
    build.add_argument(
        "--samples", type=json.loads, required=True, help="{compared name: folder}, JSON"
    )
    build.add_argument("--prompts", type=Path, required=True, help="their prompts, .jsonl")
    build.add_argument("--contests", type=json.loads, default={}, help="{name: Contest}, JSON")
    build.add_argument("--validation", type=Path, help="prompts on which contests are decided")
    build.add_argument("--output", type=Path, required=True, help=STUDY)
    build.add_argument("--fingerprint", default="", help=CODE)
    serve = commands.add_parser("serve", help="show the page to raters and collect their votes")
    serve.add_argument("--study", type=Path, required=True, help=STUDY)
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    serve.add_argument("--port", type=int, default=8000)
    aggregate = commands.add_parser("aggregate", help="results.json and .csv from the votes")
    aggregate.add_argument("--study", type=Path, required=True, help=STUDY)
    aggregate.add_argument("--fingerprint", default="", help=CODE)
    simulate = commands.add_parser("simulate", help="vote in a browser as the shapes world's judge")
    simulate.add_argument("--study", type=Path, required=True, help=STUDY)
    simulate.add_argument("--raters", type=int, required=True, help="the first so many")
    simulate.add_argument("--seed", type=int, default=0, help="of their noise")
    args = parser.parse_args()
    {"build": _build, "serve": _serve, "aggregate": _aggregate, "simulate": _simulate}[
        args.command
    ](args)


def _build(args: argparse.Namespace) -> None:
    from rocm_core.configuration import Contest, StudySettings
    from rocm_core.prompts import read_prompts
    from rocm_core.study.best import describe
    from rocm_core.study.build import build

    key = build(
        StudySettings.from_dict(args.settings),
        {name: Path(folder) for name, folder in args.samples.items()},
        read_prompts(args.prompts),
        args.output,
        args.fingerprint,
        {name: Contest.from_dict(contest) for name, contest in args.contests.items()},
        read_prompts(args.validation) if args.validation else (),
    )
    for name, choice in key.chosen.items():
        print(describe(name, choice))


def _serve(args: argparse.Namespace) -> None:
    from rocm_core.study.server import StudyServer

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one per connection
    with StudyServer(args.study, args.host, args.port) as server:
        print("One link per rater; stop with Ctrl-C, no vote is lost.")
        for code in server.raters:
            print(f"{server.address}?rater={code}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print(f"{server.votes.count} votes are in {StudyFiles(args.study).votes}")


def _aggregate(args: argparse.Namespace) -> None:
    from rocm_core.study.aggregate import aggregate

    for outcome in aggregate(args.study, args.fingerprint):
        rate = outcome.win_rate
        print(
            f"{outcome.first} against {outcome.second}, {outcome.question}: win rate"
            f" {rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}] over {outcome.pairs} pairs,"
            f" {outcome.raters} raters"
        )


def _simulate(args: argparse.Namespace) -> None:
    from rocm_core.study.simulate import open_browser, simulate

    with open_browser() as browser:
        simulate(args.study, browser, args.raters, args.seed)


if __name__ == "__main__":
    run(main)
