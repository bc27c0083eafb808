"""torchvision imports beside a CPU build of torch once rocm_core is imported, and only then."""

import subprocess
import sys

import pytest


def python(code, folder="."):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_is_repaired_when_something_imports_it():
    code = "import rocm_core; assert 'torch' not in sys.modules; from torchvision.ops import nms"
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import torch; torch.library.register_fake('torchvision::nms')(print)", ""),
        ("raise RuntimeError('another reason')", "RuntimeError: another reason"),
        ("import absent_module", "No module named 'absent_module'"),
    ],
)
def test_only_the_missing_operators_are_declared(tmp_path, content, said):
    """A stand-in that needs the operators as torchvision does, and others that fail otherwise."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(content)
    bare, repaired = (
        python(f"{first}import torchvision", tmp_path) for first in ("", "import rocm_core; ")
    )
    assert bare.returncode != 0
    assert said in bare.stderr
    if said:
        assert repaired.returncode != 0 and said in repaired.stderr
    else:
        assert repaired.returncode == 0, repaired.stderr
