"""A finished run as the workflow leaves it, its images and weights being a few letters.

`python tests/finished_run.py config/matrix.yaml` writes one into a checkout.
"""

import sys
from pathlib import Path

from rocm_core.configuration import Config
from rocm_core.grid import (
    DISTANCES,
    SCORED_TOGETHER,
    Artefacts,
    job_code,
    load_config,
    made_results,
    render_code,
    searched,
    settle,
    shown_sections,
    snapshot_steps,
    study_code,
)
from rocm_core.prompts import Prompt, make_prompts, write_prompts
from rocm_core.provenance import hash_inputs, record_beside, write_json, write_manifest


def write(manifest, files, settings, code, weights=(), inputs=(), **extra):
    """Write {path: text} and their manifest."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_manifest(
        manifest,
        settings=settings,
        code=code,
        outputs=files,
        weights=weights,
        inputs=hash_inputs(inputs),
        extra=extra,
    )


def write_run(config: Config, root: Path | None = None, prompts=None, more=()) -> None:
    """Write every artefact of a configuration; `prompts`: {set: Prompts} instead of its own. more:
    further columns of the histories."""
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
            inputs=hash_inputs(run.kept_out(name)),
            outputs=[path],
        )
    scorers = {"scorers": config.scorer_paths()}

    def table(ids, metrics, source):
        value = 0.3 + len(source) / 100
        return "".join(f"{prompt.id},{metric},{value}\n" for prompt in ids for metric in metrics)

    for one in made_results(run, {}):
        if one.outputs[0] in run.measured_bases():
            files = {one.outputs[0]: '{"scorers": {}}'}
            write(one.manifest, files, one.settings, one.code, inputs=one.inputs)
        if one.outputs[0] in run.base_reward_files():
            lines = [
                f"{step},{reward},0.05\n"
                for reward, settings in one.settings["runs"].items()
                for step in range(1, settings["iterations"] + 1)
            ]
            files = {one.outputs[0]: "step,metric,value\n" + "".join(lines)}
            write(one.manifest, files, one.settings, one.code, inputs=one.inputs)
    for search in run.searches:  # what it chose is written down below, when there are scores
        write_json(layout.choice(*search), {"chosen": run.tried(*search)[0]})
    for name, cell in run.cells.items():
        own, settings = layout.cell(name), cell.settings
        own.snapshots.mkdir(parents=True)
        chosen = run.tried(cell.reward, cell.method)[0] if searched(settings) else {}
        files = {own.snapshot(n): f"{name} {n}" for n in snapshot_steps(settings)}
        files |= {
            own.lora: f"{name}",
            own.history: ",".join(["step,reward,loss,reward_queries,nfe", *more]) + "\n",
        }
        steps = range(1, settings.iterations + 1)
        files[own.history] += "".join(
            f"{n},0.1,0.2,{4 * n},{16 * n}{',0.5' * len(more)}\n" for n in steps
        )
        write(
            own.manifest,
            files,
            cell.trained_with.to_dict(),
            job_code("train", settings),
            [path for path in settings.weights if Path(path).exists()],
            [layout.prompts(settings.prompts), *run.choice(name), *run.standards(name)],
            beta=settle(settings, chosen).beta,
            chosen=chosen,
            reward_queries=4 * settings.iterations,
            nfe=16 * settings.iterations,
        )
    for one in made_results(run, {}):  # best snapshots, gradients
        if one.source and not one.manifest.exists():
            files = dict.fromkeys(one.outputs, f"made of {one.source}")
            write(one.manifest, files, one.settings, one.code, inputs=one.inputs)
    for source, prompt_set, images in run.folders():
        shown = made[prompt_set]
        settings = run.generation(source, images.steps)
        files = {images.image(p.id): f"{source} {p.id}" for p in shown}
        files |= {images.index: f"{source} …"}
        read = [layout.prompts(prompt_set)]
        read += [run.lora(source)] if source in run.cells else []
        code = job_code("generate", settings)
        write(images.manifest, files, settings.to_dict(), code, inputs=read)
        of_jobs = {
            images.scores: (
                scorers | {"batch_size": SCORED_TOGETHER},
                job_code("score", metrics=config.metrics),
                config.metrics,
            ),
            images.readouts: ({"clip": run.clip}, job_code("measure"), run.readouts),
        }
        if config.published and images.scores in run.main_scores():
            shown_by = {"scorers": run.published}
            of_jobs[images.published] = shown_by, job_code("score_published"), config.published
        for path, (settings, code, metrics) in of_jobs.items():
            numbers = {path: "prompt_id,metric,value\n" + table(shown, metrics, source)}
            write(record_beside(path), numbers, settings, code, inputs=files)
    for search in run.searches:
        path = layout.choice(*search)
        read = [run.base_scores(*search), *run.trial_scores(*search)]
        read += run.trial_standards(*search)
        settings, code = {"tried": run.tried(*search)}, job_code("choose")
        write(record_beside(path), {path: path.read_text()}, settings, code, inputs=read)
    for name, evaluated in run.evaluated().items():
        settings, steps = run.generation(name), snapshot_steps(run.cells[name].settings)
        first = made[run.cells[name].evaluated_on][: config.snapshots.prompts]
        lines = [
            f"{n},{line}\n"
            for n in (0, *steps)
            for line in table(first, [*config.metrics, *DISTANCES], name).splitlines()
        ]
        files = {evaluated.image(n, p.id): f"{name} {n}" for n in steps for p in first}
        files[evaluated.scores] = "step,prompt_id,metric,value\n" + "".join(lines)
        code = job_code("evaluate_snapshots", settings, config.metrics)
        read = [layout.prompts(run.cells[name].evaluated_on)]
        read += map(layout.cell(name).snapshot, steps)
        write(evaluated.manifest, files, settings.to_dict() | scorers, code, inputs=read)
    if config.published:
        files = {layout.scorer_agreement: "agreement"}
        read, code = run.main_scores(), job_code("scorer_agreement")
        write(record_beside(layout.scorer_agreement), files, {}, code, inputs=read)
    shown = [*run.main_scores(), *run.snapshot_scores(), *run.trained("history.csv")]
    shown += [*run.main_scores("readouts.csv"), *run.trained("manifest.json")]
    if config.study:
        study, code = layout.study, study_code("build")
        read = [images.index for _, _, images in run.folders([config.study.prompts], False)]
        files = {study.key: "key"}
        write(record_beside(study.key), files, config.study.to_dict(), code, inputs=read)
        study.votes.write_text("votes")
        files, read = {study.results: "results", study.table: "table"}, [study.key, study.votes]
        write(record_beside(study.results), files, {}, study_code("aggregate"), inputs=read)
        shown.append(study.results)
    for kind, name in run.rendered():
        files = dict.fromkeys(layout.rendered(kind, name), name)
        sections, code = shown_sections(config, kind, name), render_code(kind, name, config)
        write(record_beside(next(iter(files))), files, sections, code, inputs=shown)
        shown += [next(iter(files))] * (kind != "table")


if __name__ == "__main__":
    write_run(load_config(sys.argv[1]))
