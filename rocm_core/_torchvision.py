"""Make ``torchvision`` importable beside a CPU build of torch.

The registry's torchvision wheel registers its operators against CUDA; beside a CPU torch its import
fails with ``operator torchvision::nms does not exist`` and takes open_clip, timm, transformers and
diffusers down with it. `repair_when_imported` watches for that import: when it fails so, the
operators' signatures are declared and it is tried again. Where torchvision imports by itself,
nothing is changed.
"""

import functools
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_libraries: list[Any] = []  # a torch.library.Library is undone when it is let go


class _Finder:
    """Finds torchvision where Python would, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = functools.partial(_load, spec.loader.exec_module)
            spec.loader.exec_module = load  # type: ignore[method-assign]
        return spec


def _load(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        execute(module)


def repair_when_imported() -> None:
    """Watch for the import of torchvision; imports nothing itself."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
