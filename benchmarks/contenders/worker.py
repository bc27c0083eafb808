"""A contender's process: does what it is asked, one line of JSON after the other, and times it.

Contenders run in environments of their own and take turns, so that all meet the same machine. This
file needs nothing but torch.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def serve(build: Callable[[dict[str, Any], torch.device], dict[str, Callable[..., Any]]]) -> None:
    """Answer requests {"action", "count", "arguments"} on stdin until it ends.

    build: from the setup in argv[1] and the device, the actions by name. An answer holds the wall
    and process seconds of each repetition and the last result. What libraries print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setup = json.loads(sys.argv[1])
    device = torch.device(setup["device"])
    torch.set_num_threads(setup["threads"])
    actions = build(setup, device) | {"memory": lambda: peak_memory(device)}
    forget_peak(device)
    loaded = peak_memory(device)
    print(json.dumps({"ready": True, "loaded_bytes": loaded}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        action, seconds, cpu_seconds, result = actions[request["action"]], [], [], None
        for _ in range(request.get("count", 1)):
            synchronise(device)
            began, cpu_began = time.perf_counter(), time.process_time()
            result = action(**request.get("arguments", {}))
            synchronise(device)
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu_began)
        answer = {"seconds": seconds, "cpu_seconds": cpu_seconds, "result": result}
        print(json.dumps(answer), file=answers, flush=True)


def count_passes(unet: torch.nn.Module, step: Callable[[], Any]) -> int:
    """Images that pass the U-Net in a step, forward; what a backward pass repeats is left out."""
    seen: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch._C._current_graph_task_id() == -1:  # not inside a backward pass
            seen.append(len(inputs[0]))

    hook = unet.register_forward_pre_hook(note)
    step()
    hook.remove()
    return sum(seen)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` count from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: a GPU's tensors at their most, or the process's most resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
