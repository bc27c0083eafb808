"""How the cost of a step grows with its chain and its batch, and a dry-run's with its cells.

    python -m benchmarks.scaling

Processor seconds and live bytes of the tiny model on one thread. Memory is measured twice: with
`memory: auto`, and with the limit that a step of two images just keeps.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.compare import RESULTS, ROOT, SIZES, describe
from rocm_core.configuration import read_yaml
from rocm_core.provenance import atomic_write

LENGTHS = (1, 2, 4, 8, 16)
SEEDS = (1, 50, 100, 200, 500)  # of the demo's cells


def of_a_step(repeats: int, limit: float | str = "auto", **changes: Any) -> dict[str, Any]:
    """Median processor seconds of a step, the bytes that it takes at most, what it checkpoints."""
    import torch

    from benchmarks.contenders.ours import Ours
    from rocm_core.shapes.scenes import sample_captions
    from rocm_core.training import LiveBytes

    cpu = torch.device("cpu")
    setup = {
        **SIZES["tiny"],
        "consistency": str(ROOT / "resources/shapes/consistency"),
        "scorer": str(ROOT / "resources/shapes/scorers/hpsv2"),
        "precision": "float32",
        "policy": "consistency",
        "algorithm": "direct",
        "divergence": "kl",
        "reward": "hpsv2",
        "prompts": sample_captions(64, seed=1),
        "switches": {"memory": limit},
        **changes,
    }
    ours = Ours(setup, cpu)
    ours.step()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        ours.step()
        seconds.append(time.process_time() - began)
    modules = (ours.trainer.policy, ours.trainer.reward)
    tensors = {t.data_ptr(): t for m in modules for t in [*m.parameters(), *m.buffers()]}
    weights = sum(t.numel() * t.element_size() for t in tensors.values())
    with LiveBytes(cpu) as live:
        ours.step()
    return {
        "cpu_seconds": statistics.median(seconds),
        "bytes": live.most() + weights + 2 * sum(p.numel() * 4 for p in ours.parameters),
        "activation_checkpointing": ours.trainer.activation_checkpointing,
    }


def of_a_dry_run(seeds: int) -> dict[str, Any]:
    """Processor seconds of `snakemake -n` on the demo's cells, once a seed."""
    demo = read_yaml(ROOT / "config/demo.yaml")
    text = json.dumps(demo | {"name": "scaling", "seeds": list(range(seeds))})
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(text)
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--nolock"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, "--configfile", str(config)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_seconds": spent, "cells": len(demo["rewards"]) * len(demo["methods"]) * seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the demo's cells")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling-cpu.json")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    record: dict[str, Any] = describe("cpu")
    record["steps"] = {k: of_a_step(args.repeats, steps=k, batch_size=2) for k in LENGTHS}
    limit = 1.02 * record["steps"][2]["bytes"] / 2**30
    record["limit_gib"] = limit
    record["limited"] = {k: of_a_step(1, limit, steps=k, batch_size=2) for k in LENGTHS}
    record["batch"] = {n: of_a_step(args.repeats, steps=4, batch_size=n) for n in LENGTHS}
    record["cells"] = [of_a_dry_run(seeds) for seeds in args.seeds]
    with atomic_write(args.output) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    for name in ("steps", "limited", "batch"):
        for size, cost in record[name].items():
            print(
                f"{name} {size}: {cost['cpu_seconds']:.3f} s, {cost['bytes'] / 2**20:.0f} MiB,"
                f" checkpoints {cost['activation_checkpointing']}"
            )
    for cost in record["cells"]:
        print(f"dry-run of {cost['cells']} cells: {cost['cpu_seconds']:.1f} s")


if __name__ == "__main__":
    main()
