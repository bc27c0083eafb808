"""What every artefact of a grid must have been made from: its manifest says what it was made from.

The rules make the artefacts; `verify`, `accept` and the shards hold them against this.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocm_core.configuration import Config
from rocm_core.grid.codes import job_code, render_code, study_code
from rocm_core.grid.evaluation import snapshot_prompts
from rocm_core.grid.snapshots import snapshot_steps
from rocm_core.plugins import facts
from rocm_core.prompts import Prompt
from rocm_core.provenance import Made, digest_of, record_beside

if TYPE_CHECKING:
    from rocm_core.grid.artefacts import Artefacts

# What scores of snapshots hold beside the metrics: how far the snapshot went from the reference.
DISTANCES = ("squared_distance",)
SCORED_TOGETHER = 64  # images, `BATCH_SIZE` of rocm_core/evaluation/scores.py


def made_prompts(files: Artefacts) -> Iterator[Made]:
    """The prompt sets, but those that only the shards have."""
    for name, settings in files.config.prompts.items():
        code, inputs = job_code("make_prompts"), files.kept_out(name)
        if files.layout.found(path := files.layout.prompts(name)) == path:
            yield _alone(path, settings.to_dict(), code, inputs)


def made_results(files: Artefacts, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[Made]:
    """The prompt sets, all trainings, and the images and scores on those sets whose `prompts` are
    given; without those of shards, and the choices that only they have."""
    yield from made_prompts(files)
    ids = {name: [prompt.id for prompt in part] for name, part in prompts.items()}
    cells = itertools.chain(_trainings(files), _of_bases(files), _choices(files))
    for one in itertools.chain(cells, _images(files, ids), _snapshots(files, ids)):
        only_there = not one.source and files.layout.found(one.outputs[0]) != one.outputs[0]
        if one.source not in files.layout.sharded and not only_there:
            yield one


def made_renderings(files: Artefacts) -> Iterator[Made]:
    """Tables, figures, claims, the report and the agreement with the published packages."""
    for kind, name in files.rendered():
        drawn = files.layout.rendered(kind, name)
        shown = shown_sections(files.config, kind, name)
        code = render_code(kind, name, files.config)
        yield Made(record_beside(drawn[0]), shown, code, drawn, None, rendered=True)
    if files.config.published:
        code, inputs = job_code("scorer_agreement"), files.main_scores()
        yield _alone(files.layout.scorer_agreement, {}, code, inputs)


def made_study(files: Artefacts) -> Iterator[Made]:
    """The page of the user study and what its votes say, once they exist."""
    study, config = files.layout.study, files.config.study
    if config and study.key.exists():
        code = study_code("build")
        yield Made(record_beside(study.key), config.to_dict(), code, [study.key], None)
    if config and study.results.exists():
        results, code = [study.results, study.table], study_code("aggregate")
        # Shards have what the votes say, not who said it.
        inputs = study.counted if study.votes.exists() else None
        yield Made(record_beside(study.results), {}, code, results, inputs)


def shown(config: Config, study: bool = True) -> dict[str, Any]:
    """The sections of a configuration that a rendering is given, with defaults: without those that
    change no result, but with the shards where results lie, and the number of GPUs if there are
    several, as what the base scores and the seconds of an unfinished training are of all processes.
    """
    hidden = {*config.PLUMBING} - {"shards"} | (set() if study else {"study"})
    sections = {key: value for key, value in config.to_dict().items() if key not in hidden}
    gpus = config.resources.gpus
    return sections | ({"resources": {"gpus": gpus}} if gpus > 1 else {})


def shown_sections(config: Config, kind: str, name: str) -> dict[str, str]:
    """A digest of each section of a configuration that something rendered depends on, in the order
    of the file, which is that of the methods. `study` is one where votes are counted. What is null
    or false in `training` does not count: a setting that is newer than a drawing is so there."""
    votes = kind in ("claims", "report") or "votes" in facts(f"{kind}s", name)["NEEDS"]
    hidden = (*config.PLUMBING, *([] if votes else ["study"]))
    sections = config.to_dict()
    training = sections["training"].items()
    sections["training"] = {k: v for k, v in training if v is not None and v is not False}
    return {
        key: digest_of({key: json.dumps(value)})
        for key, value in sorted(sections.items())
        if key not in hidden
    }


def _trainings(files: Artefacts) -> Iterator[Made]:
    """Of each cell its training, the gradients at its weights, and the choice of a snapshot."""
    layout = files.layout
    for name, cell in files.cells.items():
        own, settings = layout.cell(name), cell.settings
        prompts, standards = layout.prompts(settings.prompts), files.standards(name)
        snapshots = [own.snapshot(step) for step in snapshot_steps(settings)]
        yield Made(
            own.manifest,
            cell.trained_with.to_dict(),
            job_code("train", settings),
            [own.lora, own.history, *snapshots],
            [prompts, *files.choice(name), *standards],
            source=name,
            processes=max(1, files.config.resources.gpus),
        )
        if files.gradients(name):
            compared, code = files.gradient_settings(name), files.gradient_code(name)
            yield _alone(
                own.gradients, compared, code, [prompts, *standards, own.lora], source=name
            )
        if settings.stop_by:
            chosen = files.generation(name).to_dict() | {"scorers": files.choosers(name)}
            yield Made(
                record_beside(own.best),
                chosen | {"count": files.config.snapshots.stop_prompts},
                files.choosing_code(name),
                [own.best, own.choice],
                [prompts, *snapshots],
                source=name,
            )


def _of_bases(files: Artefacts) -> Iterator[Made]:
    """The base's scores that standardise rewards, and those along trainings."""
    layout = files.layout
    for file, (policy, prompt_set, measured) in files.measured_bases().items():
        drawn = files.generation(f"base-{policy}").to_dict()
        settings = drawn | {"scorers": files.scorer_paths(measured)}
        code = files.measuring_code(policy, measured)
        yield _alone(file, settings, code, [layout.prompts(prompt_set)])
    for key, run in {run.key: run for run in files.base_runs.values()}.items():
        file, code = layout.base_rewards(run.policy, key), files.base_run_code(key)
        inputs = [layout.prompts(run.prompts), *files.base_run_standards(key)]
        yield _alone(file, files.base_run_settings(key), code, inputs)


def _choices(files: Artefacts) -> Iterator[Made]:
    """What each search chose."""
    for search in files.searches:
        inputs = [files.base_scores(*search), *files.trial_scores(*search)]
        inputs += files.trial_standards(*search)
        settings, code = {"tried": files.tried(*search)}, job_code("choose")
        yield _alone(files.layout.choice(*search), settings, code, inputs)


def _images(files: Artefacts, ids: Mapping[str, Sequence[str]]) -> Iterator[Made]:
    """All sets of images, with their scores, read-outs and published packages' scores."""
    config = files.config
    scorers = {"scorers": config.scorer_paths(), "batch_size": SCORED_TOGETHER}
    for name, prompt_set, images in files.folders(ids):
        drawn, shown = files.generation(name, images.steps), ids[prompt_set]
        pictures = [images.index, *map(images.image, shown)]
        inputs = [files.layout.prompts(prompt_set)]
        inputs += [files.lora(name)] if name in files.cells else []
        code = job_code("generate", drawn)
        yield Made(images.manifest, drawn.to_dict(), code, pictures, inputs, source=name)
        code, rows = job_code("score", metrics=config.metrics), _rows(shown, config.metrics)
        yield _alone(images.scores, scorers, code, pictures, rows, name)
        code, rows = job_code("measure"), _rows(shown, files.readouts)
        yield _alone(images.readouts, {"clip": files.clip}, code, pictures, rows, name)
    main = ids.keys() & {"validation"} if config.published else ()
    for name, prompt_set, images in files.folders(main, every_step=False):
        pictures = [images.index, *map(images.image, ids[prompt_set])]
        code, rows = job_code("score_published"), _rows(ids[prompt_set], config.published)
        yield _alone(images.published, {"scorers": files.published}, code, pictures, rows, name)


def _snapshots(files: Artefacts, ids: Mapping[str, Sequence[str]]) -> Iterator[Made]:
    """The scores of the snapshots of each cell, with the images that they are of."""
    config = files.config
    for name, evaluated in files.evaluated().items():
        cell, drawn = files.cells[name], files.generation(name)
        if cell.evaluated_on not in ids:
            continue
        first = ids[cell.evaluated_on][: snapshot_prompts(config)]
        steps = snapshot_steps(cell.settings)
        pictures = itertools.starmap(evaluated.image, itertools.product(steps, first))
        snapshots = (files.layout.cell(name).snapshot(step) for step in steps)
        yield Made(
            evaluated.manifest,
            drawn.to_dict() | {"scorers": config.scorer_paths()},
            job_code("evaluate_snapshots", drawn, config.metrics),
            [evaluated.scores, *pictures],
            [files.layout.prompts(cell.evaluated_on), *snapshots],
            _rows(map(str, [0, *steps]), first, [*config.metrics, *DISTANCES]),
            source=name,
        )


def _alone(
    file: Path,
    settings: Mapping[str, Any],
    code: str,
    inputs: Sequence[Path],
    rows: Collection[tuple[str, ...]] = (),
    source: str = "",
) -> Made:
    return Made(record_beside(file), settings, code, [file], inputs, rows, source=source)


def _rows(*keys: Iterable[str]) -> set[tuple[str, ...]]:
    return set(itertools.product(*keys))
