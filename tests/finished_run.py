"""A finished run as the workflow leaves it, its images and weights being a few letters.

`python tests/finished_run.py config/matrix.yaml` writes one into a checkout.
"""

import sys
from pathlib import Path

from rocm_core.configuration import Config
from rocm_core.grid import (
    DISTANCES,
    Artefacts,
    job_code,
    load_config,
    render_code,
    shown_sections,
    snapshot_steps,
)
from rocm_core.prompts import Prompt, make_prompts, write_prompts
from rocm_core.provenance import record_beside, write_manifest


def write(manifest, files, settings, code, weights=(), inputs=()):
    """Write {path: text} and their manifest."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_manifest(
        manifest, settings=settings, code=code, outputs=files, weights=weights, inputs=inputs
    )


def write_run(config: Config, root: Path | None = None, prompts=None) -> None:
    """Write every artefact of a configuration; `prompts`: {set: Prompts} instead of its own."""
    run = Artefacts(config, root)
    layout = run.layout
    made: dict[str, list[Prompt]] = {}
    for name in sorted(config.prompts, key=lambda name: name not in run.trained_on):
        settings, path = config.prompts[name], layout.prompts(name)
        excluded = [p for other in run.kept_out(name) for p in made[other.stem]]
        made[name] = prompts[name] if prompts else make_prompts(settings, excluded)
        write_prompts(path, made[name])
        write_manifest(
            record_beside(path),
            settings=settings.to_dict(),
            code=job_code("make_prompts"),
            weights=run.prompt_sources(name),
            inputs=run.kept_out(name),
            outputs=[path],
        )
    scorers = {"scorers": config.scorer_paths()}

    def table(ids, metrics):
        return "".join(f"{prompt.id},{metric},0.5\n" for prompt in ids for metric in metrics)

    for source, prompt_set, images in run.folders():
        shown = made[prompt_set]
        settings = run.generation(source, images.steps)
        files = {images.image(p.id): f"{source} {p.id}" for p in shown} | {images.index: "…"}
        write(images.manifest, files, settings.to_dict(), job_code("generate", settings))
        files = {images.scores: "prompt_id,metric,value\n" + table(shown, config.metrics)}
        write(
            record_beside(images.scores), files, scorers, job_code("score", metrics=config.metrics)
        )
    for _, _, images in run.folders(["validation"], every_step=False):
        files = {images.readouts: "prompt_id,metric,value\n"}
        files[images.readouts] += table(made["validation"], run.readouts)
        write(record_beside(images.readouts), files, {"clip": run.clip}, job_code("measure"))
    for name, cell in run.cells.items():
        own, settings = layout.cell(name), cell.settings
        own.snapshots.mkdir(parents=True)
        files = {own.snapshot(n): f"{n}" for n in snapshot_steps(settings)}
        files |= {own.lora: "lora", own.history: "step,reward,loss\n"}
        files[own.history] += "".join(f"{n},0.1,0.2\n" for n in range(1, settings.iterations + 1))
        weights = [path for path in settings.weights if Path(path).exists()]
        code = job_code("train", settings)
        write(own.manifest, files, settings.to_dict(), code, weights)
    for name, evaluated in run.evaluated().items():
        settings, steps = run.generation(name), snapshot_steps(run.cells[name].settings)
        first = made[run.cells[name].evaluated_on][: config.snapshots.prompts]
        lines = [
            f"{n},{line}\n"
            for n in (0, *steps)
            for line in table(first, [*config.metrics, *DISTANCES]).splitlines()
        ]
        files = {evaluated.image(n, p.id): f"{n}" for n in steps for p in first}
        files[evaluated.scores] = "step,prompt_id,metric,value\n" + "".join(lines)
        code = job_code("evaluate_snapshots", settings, config.metrics)
        write(evaluated.manifest, files, settings.to_dict() | scorers, code)
    for kind, name in run.rendered():
        files = dict.fromkeys(layout.rendered(kind, name), name)
        sections, code = shown_sections(config, kind, name), render_code(kind, name, config)
        write(record_beside(next(iter(files))), files, sections, code)


if __name__ == "__main__":
    write_run(load_config(sys.argv[1]))
