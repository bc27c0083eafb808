"""Every test runs on the CPU at one thread a process, offline and without a display."""

import os

import rocm_core  # noqa: F401  (before any test imports torchvision, which it repairs)

os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
