"""Fingerprints see what code means, manifests what was made, and a write happens or does not."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT, source_of
from rocm_core.provenance import (
    SKIPPED,
    atomic_write,
    code_fingerprint,
    files_in,
    folder_digest,
    forget_code,
    hash_inputs,
    manifests,
    module_closure,
    package_versions,
    read_entry,
    sealed,
    sha256_file,
    write_json,
    write_manifest,
)

PROJECT = {
    "script.py": "from rocm_core.train import go\ngo()\n",
    "rocm_core/__init__.py": "from rocm_core import everything\n",
    "rocm_core/train.py": (
        '"""Train."""\nimport json\nfrom typing import TYPE_CHECKING\nfrom . import loop\n'
        "from rocm_core.configuration import x\nfrom rocm_core.house import guide\n\n"
        "if TYPE_CHECKING:\n    from rocm_core.figures import colour\n\n\n"
        "def go():\n    from rocm_core.rewards.a import score\n\n    return score\n"
    ),
    "rocm_core/loop.py": "from .deep.inner import step\nimport torch\n",
    "rocm_core/deep/__init__.py": "from rocm_core.deep import other\nNUMBER = 1\n",
    "rocm_core/deep/inner.py": "def step(x):\n    return x + 1\n",
    "rocm_core/deep/other.py": "from ..loop import step  # a cycle\n",
    "rocm_core/rewards/__init__.py": "import importlib\nload = importlib.import_module\n",
    "rocm_core/rewards/a.py": "score = 1\n",
    "rocm_core/rewards/b.py": "score = 2\n",
    "rocm_core/configuration/__init__.py": "from rocm_core.configuration.config import x\n",
    "rocm_core/configuration/config.py": "import rocm_core.figures\nx = 1\n",
    # A door: it passes names on and does nothing else.
    "rocm_core/house/__init__.py": (
        '"""The house."""\n\nfrom rocm_core.house.hall import guide\n'
        "from rocm_core.house.attic import stored\n\n__all__ = ['guide', 'stored']\n"
    ),
    "rocm_core/house/hall.py": "def guide():\n    return 1\n",
    "rocm_core/house/attic.py": "stored = 2\n",
    "rocm_core/figures.py": "colour = 'red'\n",
    "rocm_core/everything.py": "from rocm_core import figures\n",
    # Beside the project: a package of the user's own.
    "guest/mine/__init__.py": "VERSION = 1\n",
    "guest/mine/bright.py": "from mine.light import SHADE\nfrom rocm_core.house import stored\n",
    "guest/mine/light.py": "SHADE = 1\n",
    "guest/mine/dark.py": "SHADE = 0\n",
}


@pytest.fixture
def project(tmp_path):
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    forget_code()
    return tmp_path


def fingerprint(root, *names):
    forget_code()
    return code_fingerprint(*(names or ["script.py"]), root=root)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"other": 1}'])
def test_an_entry_that_a_file_lacks_is_named(tmp_path, content):
    path = tmp_path / "choice.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"choice\.json has no 'chosen' .*: make it again"):
        read_entry(path, "chosen")
    path.write_text('{"chosen": {"beta": 1}}')
    assert read_entry(path, "chosen") == {"beta": 1}


def test_the_closure_follows_imports_wherever_they_stand(project):
    expected = "deep deep.inner deep.other house.hall loop rewards rewards.a train".split()
    closure = [f"rocm_core.{name}" for name in expected] + ["script.py"]
    assert module_closure("script.py", root=project) == closure


def test_modules_that_touch_no_number_exist_and_are_entered_when_named():
    for name in SKIPPED:
        assert source_of(name)
    assert module_closure("rocm_core.provenance.files") == ["rocm_core.provenance.files"]


def test_a_name_taken_through_a_door_counts_as_its_module(project):
    assert "rocm_core.house.hall" in module_closure("script.py", root=project)
    before = fingerprint(project)
    for file, text in (
        ("attic.py", "stored = 3\n"),
        ("cellar.py", "wine = 1\n"),
        (
            "__init__.py",
            "from rocm_core.house.cellar import wine\nfrom rocm_core.house.hall import guide\n",
        ),
    ):
        (project / "rocm_core/house" / file).write_text(text)
        assert fingerprint(project) == before
    (project / "rocm_core/house/hall.py").write_text("def guide():\n    return 2\n")
    assert fingerprint(project) != before


@pytest.mark.parametrize("taken", ["import rocm_core.house", "from rocm_core.house import *"])
def test_a_door_that_is_taken_whole_counts_with_all_behind_it(project, taken):
    (project / "script.py").write_text(taken)
    behind = ["rocm_core.house.attic", "rocm_core.house.hall", "script.py"]
    assert module_closure("script.py", root=project) == behind


def test_a_door_through_which_another_module_answers_is_another_fingerprint(project):
    before = fingerprint(project)
    (project / "rocm_core/house/porch.py").write_text("def guide():\n    return 5\n")
    door = project / "rocm_core/house/__init__.py"
    door.write_text(door.read_text().replace("house.hall", "house.porch"))
    assert fingerprint(project) != before


def test_a_package_that_computes_is_not_a_door(project):
    door = project / "rocm_core/house/__init__.py"
    door.write_text(door.read_text() + "ROOMS = 2\n")
    closure = module_closure("script.py", root=project)
    assert {"rocm_core.house", "rocm_core.house.attic"} <= set(closure)


def test_imports_for_type_checkers_are_not_followed_and_their_alternatives_are(project):
    assert "rocm_core.figures" not in module_closure("script.py", root=project)
    forget_code()
    (project / "script.py").write_text(
        "import typing\nif typing.TYPE_CHECKING:\n    from rocm_core import figures\n"
        "else:\n    from rocm_core.rewards import b\n"
    )
    closure = module_closure("script.py", root=project)
    assert closure == ["rocm_core.rewards", "rocm_core.rewards.b", "script.py"]


@pytest.mark.parametrize(
    "place",
    [
        "try:\n    {}\nexcept ImportError:\n    pass\n",
        "try:\n    pass\nexcept ImportError:\n    {}\n",
        "try:\n    pass\nfinally:\n    {}\n",
        "for x in ():\n    pass\nelse:\n    {}\n",
        "with open(__name__):\n    {}\n",
        "match 1:\n    case 1:\n        {}\n",
        "class A:\n    async def f(self):\n        while True:\n            {}\n",
    ],
)
def test_an_import_is_found_in_every_kind_of_block(project, place):
    (project / "script.py").write_text(place.format("import rocm_core.figures"))
    assert "rocm_core.figures" in module_closure("script.py", root=project)


def test_a_guest_is_followed_with_its_closure(project, monkeypatch):
    """A plug-in of the user's own package, which is found on her Python path."""
    monkeypatch.syspath_prepend(project / "guest")
    names = ("script.py", "mine.bright")
    closure = module_closure(*names, root=project)
    assert {"mine", "mine.bright", "mine.light", "rocm_core.house.attic"} <= set(closure)
    assert "mine.dark" not in closure
    before, alone = fingerprint(project, *names), fingerprint(project)
    (project / "guest/mine/light.py").write_text("SHADE = 2\n")
    assert fingerprint(project, *names) != before and fingerprint(project) == alone


def test_another_package_is_followed_only_when_named(project, monkeypatch):
    monkeypatch.syspath_prepend(project / "guest")
    (project / "script.py").write_text("import mine.bright\n")
    forget_code()
    assert module_closure("script.py", root=project) == ["script.py"]


@pytest.mark.parametrize(
    "reading",
    [
        "from pathlib import Path\npage = Path(__file__).with_name('page.html')\n",
        "from importlib import resources\npage = resources.files('rocm_core.house')\n",
        "import importlib.resources\n",
        "import jinja2\nloader = jinja2.PackageLoader('rocm_core.house')\n",
    ],
)
def test_the_files_beside_a_module_that_reads_them_count(project, reading):
    page = project / "rocm_core/house/assets/page.html"
    page.parent.mkdir()
    page.write_text("<p>")
    before = fingerprint(project)
    page.write_text("<b>")
    assert fingerprint(project) == before
    (project / "rocm_core/house/hall.py").write_text(f"{reading}\n\ndef guide():\n    return 1\n")
    reads = fingerprint(project)
    page.write_text("<i>")
    assert fingerprint(project) != reads
    assert "rocm_core.house.hall:assets/page.html" in module_closure("script.py", root=project)


def test_a_module_resolved_by_name_counts_only_where_it_is_named(project):
    assert "rocm_core.rewards.b" in module_closure("script.py", "rocm_core.rewards.b", root=project)
    before = fingerprint(project), fingerprint(project, "script.py", "rocm_core.rewards.b")
    (project / "rocm_core/rewards/b.py").write_text("score = 3\n")
    after = fingerprint(project), fingerprint(project, "script.py", "rocm_core.rewards.b")
    assert before[0] == after[0] and before[1] != after[1]


def test_an_unknown_module_is_an_error(project):
    with pytest.raises(FileNotFoundError, match="rocm_core.rewards.c"):
        code_fingerprint("rocm_core.rewards.c", root=project)


def test_a_script_of_the_workflow_is_asked_for_where_there_is_none(project):
    """As in a wheel, from which a command needs the rules."""
    (project / "workflow").mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError):
        code_fingerprint("workflow/scripts/misspelt.py", root=project)
    shutil.rmtree(project / "workflow")
    with pytest.raises(UserError, match=r"workflow/scripts/train.py is not beside the package"):
        code_fingerprint("workflow/scripts/train.py", root=project)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("rocm_core/deep/inner.py", "def step(x):\n    return x + 1\n"),
        ("rocm_core/deep/inner.py", "# why\ndef step(x):\n    # so\n    return x + 1  # one\n"),
        (
            "rocm_core/deep/inner.py",
            '"""New."""\n\ndef step(x):\n    """Step."""\n    return x + 1\n',
        ),
        ("rocm_core/deep/inner.py", "def step(\n    x,\n):\n\n    return (x\n        + 1)\n"),
        ("rocm_core/train.py", PROJECT["rocm_core/train.py"].replace("Train.", "Train a cell.")),
        ("rocm_core/figures.py", "colour = 'blue'\n"),
        ("rocm_core/configuration/config.py", "import rocm_core.figures\nx = 2\n"),
        ("rocm_core/rewards/b.py", "score = 3\n"),
        ("rocm_core/house/attic.py", "stored = 3\n"),
    ],
    ids=(
        "touch comments docstrings formatting docstring-text figure settings other-reward"
        " behind-the-same-door"
    ).split(),
)
def test_what_changes_no_number_changes_no_fingerprint(project, file, text):
    before = fingerprint(project)
    (project / file).write_text(text)
    os.utime(project / file, (1, 1))
    assert fingerprint(project) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("script.py", "go()", "go(); go()"),
        ("rocm_core/deep/inner.py", "x + 1", "x + 2"),
        ("rocm_core/deep/inner.py", "return x + 1", "return (x, +1)"),
        ("rocm_core/deep/__init__.py", "import other", "import other, inner"),
        ("rocm_core/rewards/a.py", "1", "1.0"),
        ("rocm_core/house/hall.py", "1", "2"),
        ("rocm_core/train.py", "    return score", "    return None"),
    ],
)
def test_an_edit_of_code_that_is_used_changes_the_fingerprint(project, file, old, new):
    before, source = fingerprint(project), (project / file).read_text()
    assert old in source
    (project / file).write_text(source.replace(old, new))
    assert fingerprint(project) != before


def test_a_fingerprint_is_the_same_in_another_process_and_directory(tmp_path):
    code = (
        "from rocm_core.provenance import code_fingerprint;"
        " print(code_fingerprint('rocm_core.configuration.settings'))"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    there = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert there.stdout.strip() == code_fingerprint("rocm_core.configuration.settings"), (
        there.stderr
    )


def test_fingerprints_of_thousands_of_cells_take_no_time(project):
    fingerprint(project)
    start = time.perf_counter()
    for _ in range(5000):
        code_fingerprint("script.py", "rocm_core.rewards.b", root=project)
    assert time.perf_counter() - start < 1


def test_a_folders_digest_is_its_names_and_contents(tmp_path):
    folder, copy = tmp_path / "a", tmp_path / "b"
    for place in (folder, copy):
        (place / "unet").mkdir(parents=True)
        (place / "unet" / "w.bin").write_bytes(b"12")
        (place / "config.json").write_text("{}")
    (copy / ".cache").write_text("hidden")
    os.utime(copy / "config.json", (1, 1))
    assert folder_digest(folder) == folder_digest(copy)
    (copy / "unet" / "w.bin").write_bytes(b"21")
    assert folder_digest(folder) != folder_digest(copy)
    (copy / "unet" / "w.bin").rename(copy / "w.bin")
    (copy / "w.bin").write_bytes(b"12")
    assert folder_digest(folder) != folder_digest(copy)
    assert folder_digest(tmp_path / "none") == "absent"
    assert folder_digest(folder / "config.json") == sha256_file(folder / "config.json")


def test_a_digest_holds_the_files_behind_links_to_folders(tmp_path):
    whole, parts, elsewhere = tmp_path / "whole", tmp_path / "parts", tmp_path / "elsewhere"
    for folder in (whole / "unet" / "part", elsewhere / "part"):
        folder.mkdir(parents=True)
        (folder / "w.bin").write_bytes(b"12")
    parts.mkdir()
    (parts / "unet").symlink_to(elsewhere)
    assert folder_digest(parts) == folder_digest(whole) == folder_digest(whole)
    (elsewhere / "part" / "w.bin").write_bytes(b"123")
    assert folder_digest(parts) != folder_digest(whole)
    (tmp_path / "again").symlink_to(parts)
    assert folder_digest(tmp_path / "again") == folder_digest(parts)


def test_links_that_lead_back_are_not_followed_in_circles(tmp_path):
    folder, other = tmp_path / "a" / "b", tmp_path / "other"
    folder.mkdir(parents=True)
    other.mkdir()
    (folder / "w.bin").write_bytes(b"12")
    (folder.parent / "u.bin").write_bytes(b"56")
    (other / "v.bin").write_bytes(b"34")
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    (folder / "other").symlink_to(other)
    (other / "back").symlink_to(folder)
    assert files_in(folder) == ["other/v.bin", "up/u.bin", "w.bin"]
    assert files_in(tmp_path / "a") == ["b/other/v.bin", "b/w.bin", "u.bin"]


def test_a_fingerprint_holds_the_files_behind_links_beside_a_module(project, tmp_path):
    package, elsewhere = project / "rocm_core" / "rewards", tmp_path / "elsewhere"
    (package / "data").mkdir()
    elsewhere.mkdir()
    (elsewhere / "words.txt").write_text("one")
    (package / "data" / "words").symlink_to(elsewhere)
    (package / "b.py").write_text("from pathlib import Path\nHERE = Path(__file__)\n")
    before = fingerprint(project, "rocm_core.rewards.b")
    (elsewhere / "words.txt").write_text("two")
    assert fingerprint(project, "rocm_core.rewards.b") != before


def test_a_digest_is_looked_up_in_the_manifest_above(tmp_path):
    weights = tmp_path / "shapes" / "scorers" / "hpsv2"
    weights.mkdir(parents=True)
    (weights / "w.bin").write_bytes(b"12")
    computed = folder_digest(weights)
    listing = {"scorers/hpsv2/w.bin": sha256_file(weights / "w.bin"), "scorers/b/w.bin": "0" * 64}
    write_json(tmp_path / "shapes" / "MANIFEST.json", listing)
    assert folder_digest(weights) == computed
    write_json(tmp_path / "shapes" / "MANIFEST.json", {"scorers/hpsv2/w.bin": "1" * 64})
    assert folder_digest(weights) != computed
    (tmp_path / "shapes" / "MANIFEST.json").write_text('{"scorers')
    with pytest.raises(UserError, match="MANIFEST.json cannot be read"):
        folder_digest(weights)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "state.bin"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"ne")
        raise RuntimeError("killed")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["state.bin"]


def test_a_file_can_be_written_by_its_name(tmp_path):
    with atomic_write(tmp_path / "lora.bin") as file, open(file.name, "wb") as other:
        assert not (tmp_path / "lora.bin").exists()
        other.write(b"weights")
    assert (tmp_path / "lora.bin").read_bytes() == b"weights"
    assert os.listdir(tmp_path) == ["lora.bin"]


def test_a_manifest_says_what_made_the_files_and_from_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("cell/snapshots")
    os.makedirs("base")
    for name in ("cell/lora.bin", "cell/snapshots/step-1.bin", "base/w.bin"):
        open(name, "w").write(name)
    write_manifest(
        "cell/manifest.json",
        settings={"beta": 0.1, "seed": 3},
        code="c0de",
        outputs=["cell/snapshots/step-1.bin", tmp_path / "cell" / "lora.bin"],
        weights=["base"],
        job_seconds=1.23456,
        attempts=2,
        extra={"reward_queries": 80},
    )
    manifest = json.load(open("cell/manifest.json"))
    assert manifest["settings"] == {"beta": 0.1, "seed": 3} and manifest["code"] == "c0de"
    assert manifest["weights"] == {"base": folder_digest("base")}
    assert manifest["outputs"] == {
        name: sha256_file(f"cell/{name}") for name in ("lora.bin", "snapshots/step-1.bin")
    }
    assert (manifest["job_seconds"], manifest["attempts"], manifest["reward_queries"]) == (
        1.235,
        2,
        80,
    )
    assert manifest["packages"] == package_versions() and "python" in manifest["packages"]
    assert {"commit", "device", "peak_memory_gib"} <= manifest.keys()


def test_a_manifest_names_the_commit_that_the_job_began_with(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(manifests, "ROOT", tmp_path)
    manifests.git_commit.cache_clear()
    monkeypatch.setattr(manifests, "_git", lambda *arguments: "then")
    hash_inputs([])
    monkeypatch.setattr(manifests, "_git", lambda *arguments: "now")
    write_manifest(tmp_path / "manifest.json", settings={}, code="c")
    manifests.git_commit.cache_clear()
    assert json.loads((tmp_path / "manifest.json").read_text())["commit"] == "then"


def test_inputs_are_hashed_and_must_be_those_of_their_manifests(tmp_path):
    names = ("cell/lora.bin", "cell/snapshots/step-1.bin", "prompts/train.jsonl", "elsewhere.bin")
    files = [tmp_path / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    hashes = {file: sha256_file(file) for file in files}
    for manifest, outputs in (("cell/manifest", files[:2]), ("prompts/train.manifest", [files[2]])):
        write_manifest(tmp_path / f"{manifest}.json", settings={}, code="", outputs=outputs)
    assert hash_inputs(files) == hashes
    for file in files:
        file.write_text("other")
        if file.name == "elsewhere.bin":  # which no manifest lists
            assert hash_inputs([file]) != hashes
            continue
        with pytest.raises(
            UserError, match=f"{file} is not the file that its .*manifest.json lists"
        ):
            hash_inputs([file])
    with pytest.raises(UserError, match="nowhere.bin does not exist"):
        hash_inputs([tmp_path / "nowhere.bin"])


def test_an_input_that_is_a_manifest_stays_the_same_when_it_is_accepted(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, settings={"beta": 0.1}, code="c0de")
    content = json.loads(path.read_text())
    digest = hash_inputs([path])[path]
    assert digest == content["digest"] == sealed(content)["digest"]
    write_json(path, content | {"accepted": [{"code": "f00d"}]})
    assert hash_inputs([path])[path] == digest
    write_json(path, content | {"job_seconds": 9.0})
    assert hash_inputs([path])[path] != digest
