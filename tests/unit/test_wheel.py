"""The wheel: what is in it, and README's example in an environment with nothing else of ours."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT

DATA = {
    "rocm_core/py.typed",
    "rocm_core/weights/table.yaml",
    "rocm_core/report/page.html.j2",
    "rocm_core/commands/card.md.j2",
    "rocm_core/study/page/index.html",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what is tracked, since setuptools writes beside the source."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "rocm_core"):
        (folder / "source").mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", ROOT / name, folder / "source"], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "source"], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_every_file_that_one_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (file for file in (ROOT / "rocm_core").rglob("*") if file.is_file())
    here = {str(file.relative_to(ROOT)) for file in files if file.parent.name != "__pycache__"}
    assert DATA <= here <= names
    assert not [name for name in names if name.startswith(("tests", "workflow", "resources"))]
    (about,) = (name for name in names if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(about).decode()
    assert "Requires-Dist: diffusers>=" in text and "License-Expression: Apache-2.0" in text
    assert "Provides-Extra: trackers" in text and "# ROCM: RLHF on consistency models" in text


def test_readmes_example_and_the_commands_run_from_the_wheel(wheel, tmp_path):
    """In a virtual environment with the wheel and, of other packages, those that are here."""
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    pip = [sys.executable, "-m", "pip", "--python", empty / "bin/python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    (site,) = empty.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(packages))
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall("```python\n(.*?)```", readme, re.DOTALL)[1]
    code += (
        "\nimport rocm_core\nprint(rocm_core.__file__, rocm_core.__version__, tuple(images.shape))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*command, status=0):
        done = subprocess.run(
            [*command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    file, version, shape = run(empty / "bin/python", "-c", code).split(maxsplit=2)
    assert Path(file) == site / "rocm_core/__init__.py"
    assert shape.strip() == "(1, 3, 32, 32)"
    assert run(empty / "bin/rocm-core", "--version").strip() == version
    assert "weights/" in run(empty / "bin/rocm-core", "weights", "--list")

    for name in ("demo", "paper"):
        shutil.copy(ROOT / f"config/{name}.yaml", tmp_path)
    command, demo = empty / "bin/rocm-core", ("--configfile", "demo.yaml")
    assert run(command, "cells", *demo).endswith("5 cells\n")
    planned = run(command, "plan", *demo)
    assert "unknown without the Snakefile of a clone" in planned and "CPU hours: " in planned
    assert "5 trainings" in run(command, "watch", "--once", *demo)
    refused = {
        ("preflight", "--configfile", "paper.yaml"): "fetch them with `snakemake weights`",
        ("train", *demo, "--cell", "hpsv2/rocm-kll/seed-0", "--output", "out"): "did you mean",
        ("crate", *demo): "run it in a clone of the repository",
    }
    for words, said in refused.items():
        error = run(command, *words, status=2)
        assert said in error and "Traceback" not in error, error
