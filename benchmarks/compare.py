"""Trainers side by side: each a process, taking turns step by step, in one run.

    python -m benchmarks.compare --size tiny --device cpu

writes a JSON file a comparison below benchmarks/results/ and prints the ratios last. TRL takes part
where its environment, `.venv-trl`, is there.
"""

import argparse
import contextlib
import json
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocm_core.provenance import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
TRL = ROOT / ".venv-trl/bin/python"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LINEAR = ["proj_in", "proj_out", "conv1", "conv2", "ff.net.0.proj", "ff.net.2"]

TRAINERS = {"alignprop": "direct", "ddpo": "ppo"}  # TRL's, and what they are called here
COMPARISONS = ["plain-loop", *TRAINERS, "switches"]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "steps": 4,
        "guidance_scale": 3.0,
        "batch_size": 4,
        "rank": 8,
        "alpha": 16.0,
        "targets": ATTENTION + LINEAR,
        "learning_rate": 1e-4,
        "beta": 0.001,
    },
    "full": {
        "steps": 8,
        "guidance_scale": 7.5,
        "batch_size": 1,
        "rank": 16,
        "alpha": 32.0,
        "targets": ATTENTION,
        "learning_rate": 6e-5,
        "beta": 1e-4,
    },
}


# What both sides do where it is not ROCM's step, and what the other one does otherwise.
GUIDED = {"policy": "diffusion", "divergence": "none", "beta": 0.0}
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "each step checkpointed": ({}, {"turned": {"activation_checkpointing": "step"}}),
    "each block checkpointed": ({}, {"turned": {"activation_checkpointing": "block"}}),
    "reference_gradient: stop": ({}, {"switches": {"reference_gradient": "stop"}}),
    "compile: true": ({}, {"switches": {"compile": True}}),
    "AdamW not fused": ({}, {"turned": {"fused": False}}),
    "channels last": ({}, {"turned": {"channels_last": True}}),
    "guidance in two passes": (GUIDED, {"turned": {"halves": True}}),
}


class Contender:
    """A process that does what it is asked; see `contenders.worker`."""

    def __init__(self, module: str, setup: dict[str, Any], python: Path | str = sys.executable):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(setup["threads"]),
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.contenders.{module}", json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.batch_size = setup["batch_size"]
        self.loaded_bytes = 0
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[:3])} has ended: see its output above")
        return json.loads(line)

    def wait(self) -> None:
        """Until it has loaded what it needs."""
        self.loaded_bytes = self._read()["loaded_bytes"]

    def ask(self, action: str, count: int = 1, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        request = {"action": action, "count": count, "arguments": arguments}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._read()

    def step(self) -> None:
        answer = self.ask("step")
        self.seconds += answer["seconds"]
        self.cpu_seconds += answer["cpu_seconds"]

    def summary(self) -> dict[str, Any]:
        seconds = statistics.median(self.seconds)
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "seconds_per_step": seconds,
            "cpu_seconds_per_step": statistics.median(self.cpu_seconds),
            "images_per_second": self.batch_size / seconds,
            "loaded_bytes": self.loaded_bytes,
            "peak_bytes": self.ask("memory")["result"],
            "nfe": self.ask("passes")["result"],
        }

    def close(self) -> None:
        self.process.communicate()


def take_turns(contenders: list[Contender], repeats: int) -> None:
    """Let each do two steps to warm up, then `repeats` rounds of one step each."""
    for contender in contenders:
        contender.ask("step", 2)
    for _ in range(repeats):
        for contender in contenders:
            contender.step()


@contextlib.contextmanager
def started(*plans: tuple) -> Iterator[list[Contender]]:
    contenders: list[Contender] = []
    try:
        for plan in plans:
            contenders.append(Contender(*plan))
        for contender in contenders:
            contender.wait()
        yield contenders
    finally:
        for contender in contenders:
            contender.close()


def ratio(slow: dict[str, Any], fast: dict[str, Any], clock: str) -> float:
    """How often the fast one's step fits into the slow one's, the median over rounds."""
    pairs = zip(slow[clock], fast[clock], strict=True)
    return statistics.median(a / b for a, b in pairs)


def against_plain_loop(setup: dict[str, Any], repeats: int, clock: str) -> dict[str, Any]:
    """ROCM with KL: ours and Algorithm 2 as a plain loop; the floor; where the time goes."""
    with started(("ours", setup), ("plain", setup)) as (ours, plain):
        difference = _gradient_difference(ours, plain)
        take_turns([ours, plain], repeats)
        mine, theirs = ours.summary(), plain.summary()
        facts = ours.ask("facts")["result"]
        floor = over_floor(ours, repeats, clock)
        matrix_rate = ours.ask("matrix_rate")["result"]
        accounts = [ours.ask("account")["result"] for _ in range(3)]
        profile = ours.ask("profile")["result"]
    step = mine["seconds_per_step" if clock == "seconds" else "cpu_seconds_per_step"]
    return {
        "contenders": {"ours": mine, "plain loop": theirs},
        "ratios": {"plain loop": ratio(theirs, mine, clock)},
        "gradient_differences": {"plain loop": difference},
        "facts": facts,
        "reward_queries_per_second": facts["reward_queries"] / step,
        "matrix_rate": matrix_rate,
        "share_of_matrix_rate": facts["flop"] / step / matrix_rate,
        "floor": floor,
        # The processor's peak is of the whole process, libraries included.
        "predicted_over_peak_memory": facts["predicted_bytes"] / mine["peak_bytes"]
        if clock == "seconds"
        else None,
        "account": {part: statistics.median(a[part] for a in accounts) for part in accounts[0]},
        "profile": profile,
    }


def over_floor(ours: Contender, repeats: int, clock: str) -> dict[str, Any]:
    """A step and the same passes called alone, in turns: a ratio of neighbours in time."""
    ours.ask("floor")  # to warm up
    steps, floors = [], []
    for _ in range(repeats):
        steps += ours.ask("step")[clock]
        floors.append(ours.ask("floor")["result"])
    sums = [sum(line["seconds"] for line in floor.values()) for floor in floors]
    lines = {
        name: {
            "count": line["count"],
            "seconds": statistics.median(floor[name]["seconds"] for floor in floors),
        }
        for name, line in floors[0].items()
    }
    return {
        "lines": lines,
        "step_seconds": steps,
        "floor_seconds": sums,
        "step_over_floor": statistics.median(map(operator.truediv, steps, sums)),
    }


def _gradient_difference(one: Contender, other: Contender) -> float:
    """|g - g'| / |g'| of the first batch's gradients, over the whole adapter."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.safetensors" for name in ("one", "other")]
        for contender, file in zip((one, other), files, strict=True):
            contender.ask("gradient", file=file)
        first, second = (load_file(file) for file in files)
    wrong = sum((first[name].double() - second[name].double()).square().sum() for name in second)
    whole = sum(value.double().square().sum() for value in second.values())
    return float((wrong / whole).sqrt())


def against_trl(trainer: str, setup: dict[str, Any], repeats: int, clock: str) -> dict[str, Any]:
    """An unregularised diffusion policy with classifier-free guidance, which TRL cannot do without:
    two NFE a step and image on both sides."""
    shared = setup | GUIDED | {"algorithm": TRAINERS[trainer], "trainer": trainer}
    with started(("ours", shared), ("trl", shared, TRL)) as contenders:
        take_turns(contenders, repeats)
        ours, theirs = (contender.summary() for contender in contenders)
        facts = contenders[0].ask("facts")["result"]
    return {
        "contenders": {"ours": ours, f"TRL {trainer}": theirs},
        "ratios": {f"TRL {trainer}": ratio(theirs, ours, clock)},
        "facts": facts,
    }


def against_itself(setup: dict[str, Any], repeats: int, clock: str) -> dict[str, Any]:
    """Each switch of the step, turned from where it stands: its time, memory and gradient beside
    ours."""
    result: dict[str, Any] = {"contenders": {}, "ratios": {}, "gradient_differences": {}}
    for name, (both, turned) in SWITCHES.items():  # two at a time, for they share a GPU's memory
        shared = setup | both
        switched = shared | turned
        switched["switches"] = setup["switches"] | turned.get("switches", {})
        with started(("ours", shared), ("ours", switched)) as (ours, other):
            result["gradient_differences"][name] = _gradient_difference(other, ours)
            take_turns([ours, other], repeats)
            mine, theirs = ours.summary(), other.summary()
        if not both:
            result["contenders"].setdefault("ours", mine)
        result["contenders"][name] = theirs
        result["ratios"][name] = ratio(theirs, mine, clock)
    return result


def describe(device: str) -> dict[str, Any]:
    """What the numbers depend on: device, what else runs there, versions and commit."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    packages = ("torch", "diffusers", "peft", "transformers", "accelerate")
    return {
        "device": name,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """HEAD, "+dirty" where more than the records and what is drawn from them has changed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    made = (":!benchmarks/results", ":!docs")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    head = git("rev-parse", "--short", "HEAD")
    return head + "+dirty" * bool(changed) if head else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--compile", action="store_true", help="compile our U-Net")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of one step each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, default=ROOT / ".benchmark-models")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=COMPARISONS)
    args = parser.parse_args()
    from benchmarks.models import write_models
    from rocm_core.shapes.scenes import sample_captions

    setup: dict[str, Any] = {
        **SIZES[args.size],
        **write_models(args.size, args.models / args.size),
        "device": args.device,
        "threads": args.threads,
        "precision": "bfloat16" if args.device == "cuda" else "float32",
        "policy": "consistency",
        "algorithm": "direct",
        "divergence": "kl",
        "reward": "hpsv2",
        "prompts": sample_captions(512, seed=1),
        "switches": {"compile": args.compile},
    }
    if args.batch:
        setup["batch_size"] = args.batch
    # A GPU is waited for; of a shared processor only the own share counts.
    clock = "seconds" if args.device == "cuda" else "cpu_seconds"
    wanted = [name for name in COMPARISONS if name in args.only]
    if not TRL.exists():
        print("TRL takes no part: `make bench` makes its environment, .venv-trl", file=sys.stderr)
        wanted = [name for name in wanted if name not in TRAINERS]
    kind = "gpu" if args.device == "cuda" else "cpu"
    place = f"{args.size}-{kind}-batch-{setup['batch_size']}" + "-compiled" * args.compile
    compared: dict[str, Any] = {}
    for name in wanted:
        if name in TRAINERS:
            compared[name] = against_trl(name, setup, args.repeats, clock)
        else:
            compare = against_plain_loop if name == "plain-loop" else against_itself
            compared[name] = compare(setup, args.repeats, clock)
        record = describe(args.device) | {
            "comparison": name,
            "size": args.size,
            "threads": args.threads,
            "clock": clock,
            "setup": {k: setup[k] for k in (*SIZES["tiny"], "precision")} | setup["switches"],
            **compared[name],
        }
        args.output.mkdir(parents=True, exist_ok=True)
        with atomic_write(args.output / f"{name}-{place}.json") as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())
    report(compared)


def report(compared: dict[str, Any]) -> None:
    """Print what each contender takes and the account of the step, then the ratios."""
    for name, result in compared.items():
        for contender, numbers in result["contenders"].items():
            print(
                f"{name}: {contender} {numbers['seconds_per_step']:.3f} s a step,"
                f" {numbers['images_per_second']:.2f} images/s,"
                f" {numbers['peak_bytes'] / 2**20:.0f} MiB at most,"
                f" {numbers['nfe']} NFE"
            )
        for other, difference in result.get("gradient_differences", {}).items():
            print(f"{name}: the gradient of {other} differs by {difference:.1e}")
    if first := compared.get("plain-loop"):
        for name, line in first["floor"]["lines"].items():
            print(f"floor: {line['count']} × {name}, {1000 * line['seconds']:.1f} ms in all")
        for part, seconds in first["account"].items():
            print(f"account: {part} {1000 * seconds:.1f} ms")
        for operation, seconds in first["profile"].items():
            print(f"profile: {operation} {1000 * seconds:.1f} ms")
        print(f"share of the device's matrix rate: {first['share_of_matrix_rate']:.2f}")
    for result in compared.values():
        print(*ratios(result), sep="\n")


def ratios(result: dict[str, Any]) -> list[str]:
    """A line for each ratio of a comparison, and for the step's to its floor."""
    lines = [f"{peer} / ours: {value:.2f}" for peer, value in result["ratios"].items()]
    if "floor" in result:
        lines.append(f"ours / its floor: {result['floor']['step_over_floor']:.3f}")
    if memory := result.get("predicted_over_peak_memory"):
        lines.append(f"predicted / measured memory: {memory:.2f}")
    return lines


if __name__ == "__main__":
    main()
