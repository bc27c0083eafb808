"""A copy of this checkout, and `snakemake` in it as a user would type it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Checkout:
    """A working copy of the project. `packages`: a folder of the user's own, on her Python path;
    `executable`: the Python that runs all of it."""

    path: Path
    packages: Path | None = field(default=None, kw_only=True)
    executable: str = field(default=sys.executable, kw_only=True)

    def environment(self, *first: Path) -> dict[str, str]:
        """That of a user, whose Python path holds `first` and her packages; who is in no `make`."""
        places = os.pathsep.join(map(str, [*first, *filter(None, [self.packages])]))
        inner = ("PYTHONPATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
        others = {k: v for k, v in os.environ.items() if k not in inner}
        return others | ({"PYTHONPATH": places} if places else {})

    def snakemake(
        self, *arguments: str, interpreter: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.executable, *interpreter, "-m", "snakemake", *arguments],
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )

    def plan(
        self,
        *arguments: str,
        config: str | None = "config/matrix.yaml",
        targets: Sequence[str] = (),
    ) -> str:
        """What a dry-run prints."""
        configfile = ["--configfile", config] if config else []
        done = self.snakemake("-n", *(targets or ["all"]), *configfile, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def jobs(
        self,
        *arguments: str,
        config: str | None = "config/matrix.yaml",
        targets: Sequence[str] = (),
    ) -> dict[str, int]:
        """How many jobs of each rule a dry-run would start; the collecting rules left out."""
        return count_jobs(self.plan(*arguments, config=config, targets=targets), targets)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one `old` in a file by `new`."""
        path = self.path / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} holds {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def edit_function(self, name: str, old: str, new: str) -> None:
        """Replace the one `old` in the library's one function `name` by `new`."""
        found = [
            (path, ast.get_source_segment(path.read_text(encoding="utf-8"), node))
            for path in (self.path / "rocm_core").rglob("*.py")
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        ((path, source),) = found
        assert source and source.count(old) == 1, source
        self.edit(str(path.relative_to(self.path)), source, source.replace(old, new))

    def add_statement(self, file: str) -> None:
        """Change what a module does, a little, wherever its own code goes."""
        with open(self.path / file, "a", encoding="utf-8") as source:
            source.write("\nADDED_BY_A_TEST = 1\n")

    def pretend(self, config: str, text: str) -> None:
        """Write a configuration and all of its outputs with their manifests, of a few letters each.

        Snakemake knows their params: `--touch` records each job as done, as running it would.
        """
        (self.path / config).write_text(text)
        for name in ("consistency", "diffusion", "hpsv2", "aesthetic", "blipscore"):
            (self.path / "weights" / name).mkdir(parents=True)
            (self.path / "weights" / name / "model.safetensors").write_text(name)
        (self.path / "lists").mkdir()
        (self.path / "lists/train.txt").write_text("a red circle\na blue square\n")
        written = self.python("tests/finished_run.py", config)
        assert written.returncode == 0, written.stderr
        touch = ["--cores", "1", "--touch", "--forceall", "all", "--configfile", config]
        touched = self.snakemake(*touch)
        assert touched.returncode == 0, touched.stderr

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python` with this checkout's library."""
        return subprocess.run(
            [self.executable, *arguments],
            cwd=self.path,
            env=self.environment(self.path),
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`make` in it, where the environment is taken to be installed."""
        environment = self.environment(self.path)
        found = [str(Path(self.executable).parent), environment["PATH"]]
        return subprocess.run(
            ["make", *words, "-o", ".venv/main"],
            cwd=self.path,
            env=environment | {"PATH": os.pathsep.join(found)},
            capture_output=True,
            text=True,
            check=False,
        )

    def at(self, path: Path) -> Self:
        """The same user elsewhere."""
        return replace(self, path=path)

    def copied(self, to: Path) -> Self:
        """A copy of it, to be edited; of large files that no test writes to, another link."""

        def copy(source: str, target: str) -> None:
            shared = Path(source).relative_to(self.path).parts[0] in ("docs", "resources")
            (os.link if shared else shutil.copy2)(source, target)

        shutil.copytree(self.path, to, symlinks=True, copy_function=copy)
        time.sleep(0.01)  # an edit is later than everything copied
        return self.at(to)

    def sources(self) -> list[Path]:
        """Everything but results and Snakemake's own records."""
        top = [p for p in self.path.iterdir() if p.name not in ("results", ".snakemake")]
        return [file for path in top for file in [path, *path.rglob("*")] if file.is_file()]


def count_jobs(plan: str, targets: Sequence[str] = ()) -> dict[str, int]:
    """How many jobs of each rule there are in what a dry-run has printed."""
    if "Nothing to be done" in plan:
        return {}
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total +(\d+)$", plan, re.M | re.S)
    assert table, plan
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table[1], re.M)}
    assert sum(counts.values()) == int(table[2])
    return {name: n for name, n in counts.items() if name not in ("all", *targets)}


def copy_checkout(to: Path, executable: str = sys.executable) -> Checkout:
    """The tracked files and those that would be, as a fresh clone has them; but of published runs
    only their pages, since shards, tables and figures are more than all else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        of_a_run = name.startswith("docs/results/") and name.count("/") > 3
        if (ROOT / name).is_file() and not of_a_run:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return Checkout(to, executable=executable)
