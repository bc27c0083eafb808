"""Shards: small files of what is finished, from which a study goes on and is checked."""

import json
import re
import shutil

import pytest
from corruptions import (
    BASE,
    CELL,
    CONFIG,
    IMAGES,
    OTHER,
    OTHERS,
    PROMPTS,
    SCORE,
    SNAPSHOTS,
    SNAPSHOTS_B,
    TEACHER,
    drop_line,
    edit,
    halve,
    put,
    relist,
    state,
    swap,
    swap_in,
)
from finished_run import write, write_run

from rocm_core.analysis import ANCHORS, Results
from rocm_core.commands import gate, publish_report
from rocm_core.commands.publish import publish
from rocm_core.commands.render import render
from rocm_core.commands.shards import save
from rocm_core.commands.verify import verify
from rocm_core.commands.watch import FINISHED, look
from rocm_core.errors import UserError
from rocm_core.grid import Artefacts, job_code, made_results, offered, parse_config, study_code
from rocm_core.provenance import (
    Layout,
    digest_of,
    hash_inputs,
    left_out,
    record_beside,
    sealed,
    write_manifest,
)

SEARCHED = {"rlcm": {"learning_rate": {"search": [1e-4, 1e-3], "iterations": 2}}}
GRID = {key: CONFIG[key] for key in CONFIG if key != "study"}
GRID |= {"methods": CONFIG["methods"] | SEARCHED | {"rocm-none": {"stop_by": "aesthetic"}}}
GRID["scorers"] = dict.fromkeys(["hpsv2", "aesthetic", "blipscore", "gold"])
GRID |= {"gradients": {"methods": ["rocm-none"]}, "base_rewards": True}
CHOICE = "search/hpsv2/rlcm"
KL = "hpsv2/rocm-kl/seed-0"


def configured(folder, **changes):
    return parse_config(GRID | {"shards": str(folder / "shards")} | changes)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished run, its shards and its published pages."""
    folder = tmp_path_factory.mktemp("study")
    config = configured(folder)
    write_run(config, folder / "run", PROMPTS, more=["training_seconds"])
    save(config, folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish_report, "make", lambda *_, **__: Page())
        files = Artefacts(config, folder / "run")
        publish_report.publish(Results(config, files.layout), files.shards, files)
    return folder


class Page:
    def save(self, stem):
        stem.with_suffix(".html").write_text("report")


@pytest.fixture
def clone(study, tmp_path):
    """What git has: no results."""
    shutil.copytree(study / "shards", tmp_path / "shards")
    return tmp_path


def artefacts(folder, **changes):
    return Artefacts(configured(folder, **changes), folder / "run")


def problems(folder, **changes):
    return verify(configured(folder, **changes), folder / "run")[0]


def of_jobs(found):
    """Problems of what jobs made, not of what was drawn from that."""
    return [line for line in found if not re.search(r"/(tables|figures)/|/(claims|report)\.", line)]


def test_shards_hold_all_that_is_small_and_nothing_else(study):
    run, shards = (
        {file.relative_to(root).as_posix() for file in root.rglob("*.*") if file.is_file()}
        for root in (study / "run", study / "shards")
    )
    results = {name for name in run if not name.startswith(("tables/", "figures/"))}
    pages = ("tables/", "figures/", "claims.", "report.")
    assert {n for n in shards if not n.startswith(pages)} == {
        n for n in results if not (left_out(n) or n.startswith(pages))
    }
    assert problems(study) == []
    assert artefacts(study).layout.sharded == frozenset()  # what was made here stands for itself


def test_what_people_voted_is_kept_but_not_who_said_it(study, tmp_path):
    shutil.copytree(study / "run", tmp_path / "run")
    asked = {"study": CONFIG["study"]}
    config = configured(tmp_path, **asked)
    assert "figure3" not in offered("figures", config, Layout(tmp_path / "run"))
    files = Layout(tmp_path / "run").study
    files.folder.mkdir()
    for file in (files.key, files.votes, files.results, files.table):
        file.write_text("{}")
    write_manifest(
        record_beside(files.results),
        settings={},
        code=study_code("aggregate"),
        inputs=hash_inputs([files.key, files.votes]),
        outputs=[files.results, files.table],
    )
    save(config, tmp_path / "run")
    kept = {file.name for file in (tmp_path / "shards/study").iterdir()}
    assert kept == {"results.json", "results.csv", "results.manifest.json"}
    assert [line for line in problems(tmp_path, **asked) if "shards/study/" in line] == []
    shutil.rmtree(tmp_path / "run")
    layout = artefacts(tmp_path, **asked).layout
    assert layout.outcomes == tmp_path / "shards/study/results.json"
    assert "figure3" in offered("figures", config, layout)
    assert [line for line in problems(tmp_path, **asked) if "/study/" in line] == []
    layout.outcomes.write_text("[]")
    assert any("study/results.json is not" in line for line in problems(tmp_path, **asked))


def test_the_images_of_snapshots_have_one_digest_for_all(study):
    run, shard = (
        json.loads((study / folder / SNAPSHOTS / "manifest.json").read_text())
        for folder in ("run", "shards")
    )
    assert [*shard["outputs"]] == ["scores.csv"] and len(run["outputs"]) > 1
    images = {name: sha for name, sha in run["outputs"].items() if name != "scores.csv"}
    assert shard["left_out"] == digest_of(images) != digest_of({**images, "x": "y"})
    assert {**run, "outputs": {}, "digest": ""} == {
        key: {"outputs": {}, "digest": ""}.get(key, value)
        for key, value in shard.items()
        if key != "left_out"
    }


def test_a_clone_without_results_is_whole_and_has_nothing_to_make(clone):
    files = artefacts(clone)
    assert files.layout.sharded == {*files.sources} and not files.unused
    assert [*made_results(files, PROMPTS)] == []
    assert problems(clone) == []
    assert not (clone / "run").exists()
    assert all(training.state == FINISHED for training in look(files))
    assert files.trained() == files.samples("index.jsonl") == []
    read = [*files.main_scores(), *files.trained("history.csv"), *files.snapshot_scores()]
    assert read and all(path.is_relative_to(clone / "shards") and path.exists() for path in read)
    assert [name for _, name in files.rendered() if name in ("figure1", "figure2", "samples")] == []


def test_a_published_figure_may_show_images_that_have_one_digest_for_all(clone):
    figure = "figures/gold_vs_kl.manifest.json"
    read = json.loads((clone / "shards" / figure).read_text())["inputs"]
    for folder, found in ((SNAPSHOTS, []), (f"{IMAGES}/step-2", ["which is missing"])):
        shown = {f"../{folder}/step-2/{PROMPTS['validation'][0].id}.png": "0" * 64}
        say(figure, inputs=read | shown)(clone / "shards")
        assert [line.rpartition(", ")[2] for line in problems(clone)] == found


def say(manifest, outputs=(), **changes):
    """Have a manifest list other files and say something else, by somebody who seals it."""

    def corrupt(root):
        content = json.loads((root / manifest).read_text())
        content["outputs"] |= dict(outputs)
        (root / manifest).write_text(json.dumps(sealed(content | changes)))

    return corrupt


CORRUPTIONS = {
    "a score edited": (SCORE, f"{IMAGES}/scores.csv"),
    "scores truncated": (drop_line(f"{IMAGES}/scores.csv"), f"{IMAGES}/scores.csv"),
    "scores exchanged": (swap_in(IMAGES, OTHERS, "scores.csv"), f"{IMAGES}/scores.csv"),
    "scores and their manifests exchanged": (
        swap_in(IMAGES, OTHERS, "scores.csv", "scores.manifest.json"),
        f"{IMAGES}/scores.manifest.json: made from another",
    ),
    "a score edited and listed": (
        relist(SCORE, f"{IMAGES}/scores.manifest.json"),
        "tables/table1.manifest.json: made from another",
    ),
    "read-outs halved": (halve(f"{IMAGES}/readouts.csv"), f"{IMAGES}/readouts.csv"),
    "a snapshot's score edited": (
        edit(f"{SNAPSHOTS}/scores.csv", "2,00000,gold,0.5", "2,00000,gold,0.9"),
        f"{SNAPSHOTS}/scores.csv",
    ),
    "snapshots' scores exchanged with their manifests": (
        swap((SNAPSHOTS, SNAPSHOTS_B)),
        f"{SNAPSHOTS}/manifest.json",
    ),
    "a history truncated": (drop_line(f"{CELL}/history.csv"), f"{CELL}/history.csv"),
    "trainings exchanged": (swap((CELL, OTHER)), f"{CELL}/manifest.json"),
    "trainings' manifests exchanged": (
        swap_in(CELL, OTHER, "manifest.json"),
        f"{CELL}/manifest.json",
    ),
    "images' manifests exchanged": (
        swap_in(IMAGES, OTHERS, "manifest.json"),
        f"{IMAGES}/manifest.json: made from",
    ),
    "images' manifests edited": (
        state(f"{IMAGES}/manifest.json", "seconds_per_image", 0.1),
        f"{IMAGES}/manifest.json",
    ),
    "another image listed": (
        say(f"{IMAGES}/manifest.json", outputs={"00001.png": "0" * 64}),
        f"{IMAGES}/scores.manifest.json: made from another",
    ),
    "another LoRA listed": (
        say(f"{CELL}/manifest.json", outputs={"lora.safetensors": "0" * 64}),
        f"{IMAGES}/manifest.json: made from another",
    ),
    "another snapshot listed": (
        say(f"{CELL}/manifest.json", outputs={"snapshots/step-2.safetensors": "0" * 64}),
        f"{SNAPSHOTS}/manifest.json: made from another",
    ),
    "bases exchanged": (swap((BASE, TEACHER)), f"{BASE}/manifest.json"),
    "a cost edited and sealed": (
        say(f"{CELL}/manifest.json", nfe=9),
        f"{CELL}/manifest.json says nfe 9, where it was 64",
    ),
    "a prompt edited": (
        edit("prompts/validation.jsonl", "validation 1", "validation I"),
        "prompts/validation.jsonl",
    ),
    "a choice edited": (edit(f"{CHOICE}.json", "0.0001", "0.01"), f"{CHOICE}.json"),
    "a table edited": (put("tables/table1.csv", "?"), "tables/table1.csv"),
    "a picture edited": (put("figures/figure2.png", "?"), "figures/figure2.png"),
    "the claims edited": (put("claims.json", "?"), "claims.json"),
    "the report halved": (halve("report.html"), "report.html"),
    "a stray file": (put(f"{IMAGES}/more.csv", "?"), f"{IMAGES}/more.csv"),
    "a cell removed": (
        lambda root: [shutil.rmtree(root / folder) for folder in (CELL, f"samples/{KL}")],
        f"{CELL}/manifest.json is missing",
    ),
} | {
    f"{name} removed": (lambda root, name=name: (root / name).unlink(), name)
    for name in (
        *(f"{CELL}/{file}" for file in ("manifest.json", "history.csv")),
        *(f"{IMAGES}/{file}" for file in ("manifest.json", "scores.csv", "scores.manifest.json")),
        *(f"{IMAGES}/{file}" for file in ("readouts.csv", "published.csv")),
        *(f"{SNAPSHOTS}/{file}" for file in ("manifest.json", "scores.csv")),
        *(f"{BASE}/{file}" for file in ("manifest.json", "scores.csv")),
        *("prompts/train.jsonl", "prompts/train.manifest.json", f"{CHOICE}.manifest.json"),
        *("tables/table1.md", "tables/table1.manifest.json", "claims.json", "report.html"),
    )
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_corrupted_shard_is_found(clone, case):
    corrupt, named = CORRUPTIONS[case]
    corrupt(clone / "shards")
    found = problems(clone)
    assert any(str(clone / "shards" / named) in line for line in found), "\n".join(found)


@pytest.mark.parametrize("case", [*CORRUPTIONS][:3])
def test_a_corrupted_shard_is_found_beside_results(study, clone, case):
    (clone / "run").symlink_to(study / "run")
    test_a_corrupted_shard_is_found(clone, case)


@pytest.mark.parametrize(
    "case", ["a score edited", "a history truncated", f"{IMAGES}/readouts.csv removed"]
)
def test_a_corrupted_shard_is_not_used(clone, case):
    CORRUPTIONS[case][0](clone / "shards")
    files = artefacts(clone)
    assert [*files.unused] == [KL] and files.layout.sharded == {*files.sources} - {KL}


def test_scores_are_drawn_from_shards_as_they_were(study, clone, tmp_path):
    config = configured(clone)
    drawn = [("table", "table1"), ("table", "table2"), ("claims", "claims")]
    drawn += [("table", "readouts"), ("figure", "gold_vs_kl")]
    for kind, name in drawn:
        for root, folder in ((study / "run", "whole"), (clone / "run", "again")):
            render(kind, name, config, root, tmp_path / folder / name)
        for file in (tmp_path / "whole").glob(f"{name}.[cjmt]*"):
            if "manifest" not in file.name:
                assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
        (read,) = (tmp_path / "again").glob(f"{name}.manifest.json")
        assert all("shards/" in file for file in json.loads(read.read_text())["inputs"])


def test_only_a_cell_without_a_usable_shard_is_made_again(clone):
    every = {*artefacts(clone).sources}
    shutil.rmtree(clone / "shards" / OTHER)
    shutil.rmtree(clone / "shards/samples" / OTHER.removeprefix("cells/"))
    files = artefacts(clone)
    assert every - files.layout.sharded == {OTHER.removeprefix("cells/")} and not files.unused
    assert [path.is_relative_to(clone / "run") for path in files.trained()] == [True]
    methods = GRID["methods"] | {"rocm-kl": {"beta": 0.1}}
    ((name, fault),) = artefacts(clone, methods=methods).unused.items()
    assert name == KL and fault.endswith("made with beta 0.05, the configuration says 0.1")
    assert any(fault == line for line in problems(clone, methods=methods))
    for change in ({"generation": {"seed": 9}}, {"metrics": ["hpsv2", "gold"], "published": []}):
        assert not artefacts(clone, **change).layout.sharded, change
    settings = {"rlcm": {"learning_rate": {"search": [1e-4, 1e-2], "iterations": 2}}}
    unused = artefacts(clone, methods=GRID["methods"] | settings).unused
    assert "hpsv2/rlcm/seed-0" in unused  # it was trained with what another search chose


def test_a_training_by_another_number_of_processes_stands_for_no_other(clone):
    say(f"{CELL}/manifest.json", processes=2)(clone / "shards")
    fault = "made with processes 2, resources.gpus asks for 1"
    assert {k: v.partition(": ")[2] for k, v in artefacts(clone).unused.items()} == {KL: fault}
    two = artefacts(clone, resources={"gpus": 2})
    assert two.layout.sharded == {KL, *two.bases}
    assert not {*two.base_reward_files()} & {*artefacts(clone).base_reward_files()}  # twice as many


def test_a_file_of_several_cells_that_is_at_fault_is_not_used(clone):
    rewards, *others = artefacts(clone).base_reward_files()
    name, weights = rewards.relative_to(clone / "shards"), str(clone / "shards/prompts")
    say(record_beside(name), weights={weights: "0" * 64})(clone / "shards")
    files = artefacts(clone)
    assert files.layout.sharded == {*files.sources}
    assert files.unused == {
        str(name): f"{record_beside(rewards)}: made with other weights in {weights}"
    }
    assert files.base_reward_files() == [clone / "run" / name, *others]
    assert [one.outputs for one in made_results(files, PROMPTS)] == [[clone / "run" / name]]
    # Nor is what was made from such a file.
    edit("prompts/train.jsonl", "train 1", "train I")(clone / "shards")
    stale = {"prompts/train.jsonl", *(str(file.relative_to(clone / "shards")) for file in others)}
    assert len(stale) > 1 and stale < artefacts(clone).unused.keys()


def test_a_prompt_set_may_have_the_name_of_an_index(tmp_path):
    names = ("index", "my-index")
    more = {name: {"source": "shapes", "count": 3, "seed": i} for i, name in enumerate(names, 5)}
    changes = {"prompts": GRID["prompts"] | more, "methods": {"rocm-none": {}}}
    config = configured(tmp_path, **changes)
    write_run(config, tmp_path / "run")
    save(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    files = artefacts(tmp_path, **changes)
    assert files.layout.sharded == {*files.sources}
    assert of_jobs(problems(tmp_path, **changes)) == []
    assert not [*(tmp_path / "shards/samples").rglob("index.jsonl")]
    for name in names:
        file = tmp_path / f"shards/prompts/{name}.jsonl"
        file.write_text(file.read_text().replace(" a ", " one "))
        said = f"{file} is not the file that its manifest lists: its sha256 differs"
        assert said in problems(tmp_path, **changes)
        assert artefacts(tmp_path, **changes).unused[f"prompts/{name}.jsonl"] == said


def test_cards_and_the_gate_read_shards(study, clone, monkeypatch):
    for folder in ("cells", "samples"):
        shutil.copytree(study / "run" / folder / KL, clone / "results/run" / folder / KL)
    monkeypatch.chdir(clone)
    config = configured(clone)
    assert {*Artefacts(config).sources} - Artefacts(config).layout.sharded == {KL}
    (folder,) = publish(config, cells=[KL], cards=True)
    assert "| HPSv2 | " in (folder / "README.md").read_text()
    monkeypatch.setattr(gate, "checks", lambda results, anchors: results.gaps)
    monkeypatch.setattr(gate, "verify", lambda config: ([], []))
    (verdict,) = gate.gate(config, ANCHORS)
    assert verdict.passed


def test_other_prompts_than_those_of_the_results_are_refused(clone):
    config = configured(clone)
    other = {name: [*reversed(prompts)] for name, prompts in PROMPTS.items()}
    write_run(configured(clone / "elsewhere"), clone / "run", other)
    with pytest.raises(UserError, match="holds other prompts than"):
        save(config, clone / "run")
    for folder in ("cells", "samples"):
        shutil.rmtree(clone / "run" / folder)
    assert set(artefacts(clone).unused) == {*artefacts(clone).sources}


def test_what_other_code_made_is_used_and_named(clone):
    manifest = say(f"{CELL}/manifest.json", code="0" * 64, commit="c" * 40)
    manifest(clone / "shards")
    assert KL in artefacts(clone).layout.sharded
    found, notes = verify(configured(clone), clone / "run")
    named = (
        f"shards: artefacts made by the code of commit {'c' * 40}, which is not the present code"
    )
    assert notes == [f"{named}: 1"] and of_jobs(found) == []


def test_nothing_is_taken_without_prompts_or_a_folder(study, tmp_path):
    shutil.copytree(study / "run", tmp_path / "run")
    with pytest.raises(UserError, match="name a folder"):
        save(configured(tmp_path, shards=None), tmp_path / "run")
    (tmp_path / "run/prompts/validation.jsonl").unlink()
    with pytest.raises(UserError, match="validation.jsonl"):
        save(configured(tmp_path), tmp_path / "run")
    assert not (tmp_path / "shards").exists()


def test_only_what_is_whole_is_taken_and_nothing_twice(study, tmp_path):
    shutil.copytree(study / "run", tmp_path / "run")
    config = configured(tmp_path)
    SCORE(tmp_path / "run")
    (tmp_path / "run" / OTHER / "manifest.json").unlink()
    taken, unfinished, refused = save(config, tmp_path / "run")
    assert unfinished == [OTHER.removeprefix("cells/")] and [*refused] == [KL]
    assert "its sha256 differs" in refused[KL] and not (tmp_path / "shards" / CELL).exists()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").rglob("*.*")}
    assert save(config, tmp_path / "run") == (taken, unfinished, refused)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_study_goes_on_from_shards_and_its_new_cells_join_them(clone):
    """On a second day there is a second seed, and the results of the first are gone."""
    run, later = clone / "run", {"seeds": [0, 1]}
    write_run(configured(clone / "elsewhere", **later), run, PROMPTS)
    for folder in ("cells", "samples"):
        for name in artefacts(clone).sources:
            shutil.rmtree(run / folder / name, ignore_errors=True)
    files = artefacts(clone, **later)
    assert files.layout.sharded == {*artefacts(clone).sources}
    # Figures show the first seed's images, which the shards have not.
    of_images = {"figure1", "figure2", "figure6", "samples"}
    assert not of_images & {*offered("figures", files.config, files.layout)}
    assert of_images & {*offered("figures", files.config, Layout(run))}
    choice, trials = files.layout.choice("hpsv2", "rlcm"), ("hpsv2", "rlcm")
    text = choice.read_text()  # made again, with other last digits
    choice.write_text(json.dumps(json.loads(text) | {"trials": [{"merit": 0.30000000000000004}]}))
    assert artefacts(clone, **later).layout.sharded == files.layout.sharded
    choice.write_text(text)
    read = [files.base_scores(*trials), *files.trial_scores(*trials)]
    settings, code = {"tried": files.tried(*trials)}, job_code("choose")
    write(record_beside(choice), {choice: choice.read_text()}, settings, code, inputs=read)
    config = configured(clone, **later)
    assert of_jobs(verify(config, run)[0]) == []
    taken, unfinished, refused = save(config, run)
    assert unfinished == [] and refused == {}
    assert taken.keys() == files.sources.keys() - files.layout.sharded
    shutil.rmtree(run)
    assert artefacts(clone, **later).layout.sharded == {*files.sources}
    assert of_jobs(verify(config, run)[0]) == []
