"""A finished run as the workflow leaves it, its images and weights being a few letters.

`python tests/finished_run.py config/matrix.yaml` writes one into a checkout.
"""

import sys
from pathlib import Path

from rocm_core.commands.render import shows_votes
from rocm_core.commands.verify import DISTANCES
from rocm_core.configuration import Config
from rocm_core.figures import figures
from rocm_core.grid import Artefacts, load_config, shown_sections, snapshot_steps
from rocm_core.grid import code as codes
from rocm_core.prompts import Prompt, make_prompts, write_prompts
from rocm_core.provenance import record_beside, write_manifest
from rocm_core.tables import tables


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
            code=codes.prompts_code(settings),
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
        write(images.manifest, files, settings.to_dict(), codes.generate_code(settings))
        files = {images.scores: "prompt_id,metric,value\n" + table(shown, config.metrics)}
        write(record_beside(images.scores), files, scorers, codes.score_code(config.metrics))
    for _, _, images in run.folders(["validation"], every_step=False):
        names = ["high_frequency", "pixel_diversity", *(["clip_diversity"] if run.clip else [])]
        files = {images.readouts: "prompt_id,metric,value\n" + table(made["validation"], names)}
        write(record_beside(images.readouts), files, {"clip": run.clip}, codes.measure_code())
    for name, cell in run.cells.items():
        own, settings = layout.cell(name), cell.settings
        own.snapshots.mkdir(parents=True)
        files = {own.snapshot(n): f"{n}" for n in snapshot_steps(settings)}
        files |= {own.lora: "lora", own.history: "step,reward,loss\n"}
        files[own.history] += "".join(f"{n},0.1,0.2\n" for n in range(1, settings.iterations + 1))
        weights = [path for path in settings.weights if Path(path).exists()]
        code = codes.train_code(settings)
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
        code = codes.snapshots_code(settings, config.metrics)
        write(evaluated.manifest, files, settings.to_dict() | scorers, code)
    shown = tables(config)
    parts = [("table", name) for name in shown] + [("figure", name) for name in figures(config)]
    for kind, name in [*parts, ("claims", "claims"), ("report", "report")]:
        files = dict.fromkeys(layout.rendered(kind, name), name)
        sections = shown_sections(config, study=shows_votes(kind, name))
        code = codes.render_code(kind, name, config, shown if kind == "report" else ())
        write(record_beside(next(iter(files))), files, sections, code)


if __name__ == "__main__":
    write_run(load_config(sys.argv[1]))
