"""Make ``torchvision`` importable beside a CPU build of torch.

The registry's torchvision wheel registers its operators against CUDA; beside a CPU torch its import
fails with ``operator torchvision::nms does not exist`` and takes open_clip, timm, transformers and
diffusers down with it. Importing this module first declares the missing operators' signatures, and
only then: where torchvision imports by itself, nothing is changed.
"""

import sys

import torch

_library: torch.library.Library | None = None

try:
    import torchvision  # noqa: F401
except ModuleNotFoundError:
    pass
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _library = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
