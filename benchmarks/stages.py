"""Scoring, generation and start-up against what one would write without this project.

    python -m benchmarks.stages

Images are scored in batches, their scorer's loading included, and one after the other as the hpsv2
package does it, which reads the weights again for every image, and without that; generated in
batches with an adapter that is folded into the weights, with one that is not, and by the diffusers
pipeline one prompt at a time. Start-up is a training job's processor time to its first step,
against that of importing the same modules, and beside what a bare `import rocm_core` takes.
"""

import argparse
import functools
import json
import operator
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compare import RESULTS, ROOT, SIZES, describe
from rocm_core.configuration import GenerationSettings
from rocm_core.policies import Policy
from rocm_core.prompts import Prompt, write_prompts
from rocm_core.provenance import atomic_write

SHAPES = ROOT / "resources/shapes"
STEPS, GUIDANCE = 4, 3.0
SETTINGS = GenerationSettings(
    policy="consistency",
    chain="lcm",
    model=str(SHAPES / "consistency"),
    inference_steps=STEPS,
    guidance_scale=GUIDANCE,
)

# What a job needs until its first step, and the modules that it has imported by then.
JOB = """
import json, runpy, sys, time
from rocm_core.training import Trainer

def iterate(self, step):
    answer = [time.process_time(), [n for n in sys.modules if not n.startswith("rocm_core")]]
    print("\\n" + json.dumps(answer), flush=True)
    raise SystemExit(0)

Trainer.iterate = iterate
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LIBRARY = "import json, time, rocm_core; print(json.dumps([time.process_time(), []]))"
# A package first tries its parts for itself; what a module cannot be imported by is left out.
IMPORTS = """
import importlib, json, sys, time
sys.path.insert(0, sys.argv[1])
import rocm_core
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except Exception:
        pass
print("\\n" + json.dumps([time.process_time(), []]))
"""


def alternate(repeats: int, **sides: Callable[[], Any]) -> dict[str, list[float]]:
    """Processor seconds of each side, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(repeats):
        for name, side in sides.items():
            began = time.process_time()
            side()
            seconds[name].append(time.process_time() - began)
    return seconds


def summary(seconds: dict[str, list[float]], count: int, **more: Any) -> dict[str, Any]:
    """Images a second of each side, and each one's time over that of the first."""
    (_, ours), *others = seconds.items()
    ratios = {
        name: statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        for name, theirs in others
    }
    pace = {name: count / statistics.median(values) for name, values in seconds.items()}
    return {"cpu_seconds": seconds, "images_per_second": pace, "ratios": ratios, **more}


def generation(prompts: list[Prompt], repeats: int) -> dict[str, Any]:
    """Batches through the policy, against the pipeline with a batch of one."""
    import torch
    from diffusers import LatentConsistencyModelPipeline

    from rocm_core.evaluation import iterate_images
    from rocm_core.policies import add_adapter, load_policy, merge_lora

    tiny = SIZES["tiny"]
    folded, unfolded = (load_policy(SETTINGS) for _ in range(2))
    for policy in (folded, unfolded):
        add_adapter(policy.network, tiny["rank"], tiny["alpha"], tiny["targets"], seed=0)
    merge_lora(folded.network)
    pipeline = LatentConsistencyModelPipeline.from_pretrained(SETTINGS.model).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def ours(policy: Policy) -> None:
        for _ in iterate_images(policy, prompts, 0, SETTINGS.batch_size):
            pass

    def theirs() -> None:
        for prompt in prompts:
            with torch.no_grad():
                pipeline(
                    prompt.text,
                    num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    output_type="pt",
                )

    seconds = alternate(
        repeats,
        ours=functools.partial(ours, folded),
        adapter_not_folded=functools.partial(ours, unfolded),
        pipeline=theirs,
    )
    return summary(seconds, len(prompts))


def scoring(prompts: list[Prompt], folder: Path, repeats: int) -> dict[str, Any]:
    """Files on the disk to HPSv2 scores."""
    import open_clip
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms

    from rocm_core.evaluation import generate, read_index, score
    from rocm_core.rewards import load_reward

    generate(SETTINGS, prompts, None, folder, "benchmark")
    samples = read_index(folder)
    weights = SHAPES / "scorers/hpsv2"
    reward: Any = load_reward("hpsv2", weights)
    chosen = reward.preprocessing
    preprocess = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(chosen.mean, chosen.std)]
    )
    assert isinstance(reward.clip, open_clip.CLIP)
    results: dict[str, list[float]] = {}

    def ours() -> None:
        results["ours"] = [row[-1] for row in score(samples, {"hpsv2": weights})]

    def one_by_one(reading: bool) -> None:
        scores = []
        for sample in samples:
            if reading:
                reward.clip.load_state_dict(load_file(weights / "open_clip_model.safetensors"))
            with torch.no_grad():
                image = preprocess(Image.open(sample.file).convert("RGB"))[None]
                tokens = reward.tokenizer(
                    [sample.text],
                    padding="max_length",
                    max_length=reward.clip.context_length,
                    truncation=True,
                    return_tensors="pt",
                ).input_ids
                shown = reward.clip.encode_image(image, normalize=True)
                said = reward.clip.encode_text(tokens, normalize=True)
                scores.append(float((shown @ said.T).diagonal()))
        results["theirs"] = scores

    seconds = alternate(
        repeats,
        ours=ours,
        published=functools.partial(one_by_one, True),
        loaded_once=functools.partial(one_by_one, False),
    )
    apart = max(abs(a - b) for a, b in zip(*results.values(), strict=True))
    return summary(seconds, len(samples), largest_difference=apart)


def start_up(prompts: list[Prompt], folder: Path, repeats: int) -> dict[str, Any]:
    """Processor seconds of a demo cell's job to its first step, and of the imports that it does;
    and of importing the library alone."""
    from rocm_core.grid import load_config, make_grid

    cell = make_grid(load_config(ROOT / "config/demo.yaml"))[1]
    write_prompts(folder / "prompts.jsonl", prompts)
    job = [sys.executable, "-c", JOB, "workflow/scripts/train.py", "--fingerprint", "benchmark"]
    job += ["--settings", json.dumps(cell.settings.to_dict())]
    job += ["--prompts", str(folder / "prompts.jsonl"), "--output", str(folder / "out")]
    seconds: dict[str, list[float]] = {"job": [], "imports": [], "library": []}
    for number in range(repeats + 1):
        taken, modules = _run([*job, "--state", str(folder / f"state-{number}")])
        imports = [sys.executable, "-c", IMPORTS, str(ROOT)]
        bare, _ = _run(imports, json.dumps(modules))
        library, _ = _run([sys.executable, "-c", LIBRARY])
        if number:  # the first round fills the file cache
            for name, spent in zip(seconds, (taken, bare, library), strict=True):
                seconds[name].append(spent)
    ratios = map(operator.truediv, seconds["job"], seconds["imports"])
    return {"cpu_seconds": seconds, "ratio": statistics.median(ratios)}


def _run(command: list[str], given: str | None = None) -> tuple[float, list[str]]:
    done = subprocess.run(
        command, cwd=ROOT, input=given, stdout=subprocess.PIPE, text=True, check=True
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="scored; a tenth are generated")
    parser.add_argument("--output", type=Path, default=RESULTS / "stages-cpu.json")
    args = parser.parse_args()
    import torch

    from rocm_core.shapes.scenes import sample_captions

    torch.set_num_threads(1)
    captions = sample_captions(2048, seed=1)
    training = [Prompt(str(i), caption, "shapes") for i, caption in enumerate(captions)]
    record: dict[str, Any] = describe("cpu") | {"images": args.images}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = training[: args.images]
        record["start-up"] = start_up(training, folder, args.repeats)
        record["generation"] = generation(prompts[: max(1, args.images // 10)], args.repeats)
        record["scoring"] = scoring(prompts, folder / "samples", args.repeats)
    with atomic_write(args.output) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    print(*ratios(record), sep="\n")


def ratios(record: dict[str, Any]) -> list[str]:
    """A line for each ratio of a record."""
    lines = [f"start-up / its bare imports: {record['start-up']['ratio']:.2f}"]
    for stage in ("generation", "scoring"):
        for name, value in record[stage]["ratios"].items():
            lines.append(f"{stage}, {name.replace('_', ' ')} / ours: {value:.2f}")
    return lines


if __name__ == "__main__":
    main()
