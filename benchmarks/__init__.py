"""Side-by-side measurements of a training step: `make bench` on the CPU, `make bench-gpu`."""

import rocm_core  # noqa: F401  (before contenders import torchvision, which it repairs)
