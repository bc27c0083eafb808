"""Every package that is installed has its hash, and every action of the public CI its commit."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

ENVS = ROOT / "envs"
LOCKS = sorted(path.name for path in ENVS.glob("*.txt"))
LOCKED = r"[A-Za-z0-9._-]+==[^ ;]+( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+"


def entries(lock: str) -> list[str]:
    """A file's entries, one per package: name==version; marker --hash=… --hash=…"""
    text = (ENVS / lock).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return re.sub(r" \\\n +", " ", "\n".join(lines)).splitlines()


def names(lock: str) -> set[str]:
    return {re.sub("[._]", "-", entry.split("==")[0]).lower() for entry in entries(lock)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_its_hashes(lock: str) -> None:
    assert entries(lock)
    assert not [entry for entry in entries(lock) if not re.fullmatch(LOCKED, entry)]


def test_what_is_asked_for_is_pinned() -> None:
    shared = names("torch.txt")
    for path in ENVS.glob("*.in"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        asked = {re.sub("[._]", "-", re.split("[ <=]", line)[0]).lower() for line in lines}
        assert asked <= names(f"{path.stem}.txt") | shared, path


def test_torchs_own_build_for_the_cpu_is_of_the_same_version() -> None:
    (own,) = entries("torch-cpu.txt")
    assert f"{own.partition('+')[0]} --hash" in " ".join(entries("torch.txt"))


@pytest.mark.parametrize(("environment", "lock"), [("rocm", "requirements"), ("judges", "judges")])
def test_conda_installs_what_make_installs(environment: str, lock: str) -> None:
    """In one file: Snakemake copies it away from those beside it."""
    listed = yaml.safe_load((ENVS / f"{environment}.yaml").read_text())["dependencies"][-1]["pip"]
    assert listed == [e for name in ("torch", "cuda", lock) for e in entries(f"{name}.txt")]


def test_nothing_is_installed_without_a_hash() -> None:
    for path in [
        *(ROOT / name for name in ("Makefile", "Dockerfile", ".ci/run")),
        *ENVS.glob("*.sh"),
    ]:
        for line in path.read_text().splitlines():
            if "pip install" in line:
                assert "--require-hashes" in line or re.search(
                    "--no-deps --no-build-isolation (-e|--editable) .$", line
                ), line


def test_known_vulnerabilities_of_all_that_is_pinned_are_looked_up_every_week() -> None:
    workflows = [yaml.safe_load(w.read_text()) for w in (ROOT / ".github/workflows").glob("*.yml")]
    # YAML reads `on` as true. Minute, hour and day of the month, month, day of the week.
    times = {w["name"]: w[True].get("schedule", []) for w in workflows}
    (weekly,) = [w for w in workflows if times[w["name"]]]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", times[weekly["name"]][0]["cron"])
    (job,) = weekly["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make audit"]
    asked = ["make", "--dry-run", "--always-make", "audit"]
    recipe = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (files,) = re.findall("for file in (.*?); do", recipe)
    # PyTorch's own build has the vulnerabilities of the version that torch.txt names.
    assert {Path(file).name for file in files.split()} == {*LOCKS} - {"torch-cpu.txt"}


def test_actions_are_pinned_by_commit() -> None:
    workflows = [*(ROOT / ".github/workflows").glob("*.yml")]
    used = [use for w in workflows for use in re.findall("uses: *(.*)", w.read_text())]
    assert used
    assert not [use for use in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", use)]


def test_an_image_has_nothing_that_git_does_not_keep() -> None:
    kept_out = (ROOT / ".dockerignore").read_text().splitlines()
    for line in (ROOT / ".gitignore").read_text().splitlines():
        name = re.sub("^(!?)/|/$", r"\1", line)
        assert any(fnmatch(name, pattern.removeprefix("**/")) for pattern in kept_out), line
