"""Every command in README and docs is one that its program understands, and names what there is."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT, Checkout, count_jobs

from rocm_core.__main__ import names as commands
from rocm_core.plugins import names

LOOKING = ("cells", "help", "plan", "watch")  # of make's targets, those that start nothing
WEIGHTS = "rocm_core.commands.weights"
PAGES = [
    *(ROOT / name for name in ("README.md", "config/README.md", "results/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]


def documented(program: str) -> list[list[str]]:
    """The words of each command of a program on the pages, without those with a gap to fill."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:console)?\n(.*?)^```", text, re.M | re.S)
        lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
        inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found |= dict.fromkeys(" ".join(code.split()) for code in [*lines, *inline])
    typed = [code for code in found if code.startswith(f"{program} ")]
    return [shlex.split(code, comments=True) for code in typed if not re.search("…|[<>]|COM", code)]


def test_make_knows_its_targets() -> None:
    typed = [words for words in documented("make") if "(" not in words[1]]
    assert len(typed) > 20
    for words in typed:
        done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def that_start_nothing() -> list[Any]:
    """Of the pages' commands; where Snakemake plans, it takes seconds each, of the paper many."""
    make = [words for words in documented("make") if words[1] in LOOKING]
    typed = make + [words for words in documented("snakemake") if "-n" in words]
    typed += [w for w in documented("python") if WEIGHTS in w and "--record" not in w]
    planned = pytest.mark.faults
    return [
        pytest.param(words, id=said, marks=planned if {"plan", "-n"} & {*words} else ())
        for said, words in {" ".join(words): words for words in typed}.items()
    ]


@pytest.mark.parametrize("words", that_start_nothing())
def test_what_starts_nothing_runs_in_a_fresh_clone_and_says_something(
    pristine: Checkout, tmp_path: Path, words: list[str]
) -> None:
    if words[0] == "snakemake":
        at = pristine.at(tmp_path) if "-s" in words else pristine
        typed = [word.replace("/path/to/rocm", str(pristine.path)) for word in words[1:]]
        done = at.snakemake(*typed)
        assert done.returncode == 0, done.stderr
        assert count_jobs(done.stdout + done.stderr)
        return
    if words[0] == "python":
        done = pristine.python(*words[1:])
        lacks = "--check" in words  # the weights, as a fresh clone does
        assert done.returncode == lacks, done.stderr
        assert ("is missing: fetch it with" if lacks else "\nto fetch: ") in done.stdout
        return
    done = pristine.make(*words[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_snakemake_knows_the_options_and_nothing_swallows_a_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from snakemake.cli import get_argument_parser

    monkeypatch.chdir(ROOT)
    files = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    rules = {*re.findall(r"^ *rule (\w+):", text, re.M), *names("tables"), *names("figures")}
    typed, parser = documented("snakemake"), get_argument_parser()
    assert len(typed) > 20
    for words in typed:
        args = parser.parse_args(words[1:])
        targets = {*args.targets, *(args.forcerun or [])}
        said = " ".join(words)
        assert all("/" in target or target in rules for target in targets), said
        configured = [str(file) for file in args.configfile or []]
        assert all(file.endswith(".yaml") for file in configured), said
        assert all("=" in setting for setting in args.config or []), said
        ours = [file for file in configured if file != "config/ideas.yaml"]  # the reader's own
        assert all((ROOT / file).is_file() for file in ours), said


def test_modules_and_commands_know_their_options() -> None:
    modules = [words for words in documented("python") if words[1] == "-m"]
    modules = [
        words[2:] for words in modules if words[2].split(".")[0] in ("rocm_core", "benchmarks")
    ]
    own = [[f"rocm_core.commands.{w[1]}", *w[2:]] for w in documented("rocm-core")]
    assert len(modules) > 5 and own
    assert {module.rsplit(".", 1)[1] for module, *_ in own} <= {*commands()}
    for module, *arguments in [*modules, *own]:
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin, module
        source = Path(spec.origin)
        if spec.submodule_search_locations:
            source = source.with_name("__main__.py")
        text = source.read_text(encoding="utf-8")
        for option in (word for word in arguments if word.startswith("-")):
            assert f'"{option.partition("=")[0]}"' in text, f"{module} {option}"
