"""On the Python path, this gives `rocm_core.commands.launch` GPUs; its script sees none of them.

FAKE_GPUS names them, in CUDA's order: those that a process could see without CUDA_VISIBLE_DEVICES.
"""

import os
import sys
from types import SimpleNamespace


def _visible() -> list[str]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: up to the first name that it does not know."""
    known = os.environ["FAKE_GPUS"].split(",")
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    found: list[str] = []
    for name in known if listed is None else listed.split(","):
        if name.isdigit() and int(name) < len(known):
            found.append(known[int(name)])
        elif name in known:
            found.append(name)
        else:
            break
    return found[:1] if found and found[0].startswith("MIG-") else found


if "rocm_core.commands.launch" in sys.orig_argv and "FAKE_GPUS" in os.environ:
    cuda = SimpleNamespace(
        is_available=lambda: bool(_visible()),
        device_count=lambda: len(_visible()),
        get_device_properties=lambda index: SimpleNamespace(uuid=_visible()[index]),
        init=lambda: None,
    )
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)  # importing the real one takes seconds
