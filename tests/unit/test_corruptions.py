"""`verify` names what was corrupted, by accident or by hand, wherever in the chain from the prompts
to the report; the last tests show what it cannot find."""

import json
import shutil

import pytest
from corruptions import (
    BASE,
    CELL,
    CONFIG,
    IMAGES,
    LORA,
    OTHER,
    OTHERS,
    PICTURE,
    PROMPT,
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
    restate,
    seal,
    state,
    swap,
    swap_in,
)
from finished_run import write_run

from rocm_core.commands.verify import verify
from rocm_core.grid import parse_config
from rocm_core.provenance import content_digest


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "run"
    write_run(parse_config(CONFIG), root, PROMPTS)
    return root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def problems(root):
    return verify(parse_config(CONFIG), root)[0]


# {what was done: (how, what verify must name)}
CORRUPTIONS = {
    "image folders of two methods exchanged": (swap((IMAGES, OTHERS)), f"{IMAGES}/manifest.json"),
    "images of two methods exchanged": (
        swap_in(IMAGES, OTHERS, *(f"0000{i}.png" for i in range(3))),
        f"{IMAGES}/00000.png",
    ),
    "images of two prompts exchanged": (
        swap((f"{IMAGES}/00000.png", f"{IMAGES}/00001.png")),
        f"{IMAGES}/00000.png",
    ),
    "images and their manifests exchanged": (
        swap_in(
            IMAGES, OTHERS, *(f"0000{i}.png" for i in range(3)), "index.jsonl", "manifest.json"
        ),
        f"{OTHERS}/manifest.json",
    ),
    "scores exchanged": (swap_in(IMAGES, OTHERS, "scores.csv"), f"{IMAGES}/scores.csv"),
    "scores and their manifests exchanged": (
        swap_in(IMAGES, OTHERS, "scores.csv", "scores.manifest.json"),
        f"{IMAGES}/scores.manifest.json",
    ),
    "scores of the base given to a method": (
        lambda root: [
            shutil.copy(root / BASE / name, root / IMAGES / name)
            for name in ("scores.csv", "scores.manifest.json")
        ],
        f"{IMAGES}/scores.manifest.json",
    ),
    "read-outs and their manifests exchanged": (
        swap_in(IMAGES, OTHERS, "readouts.csv", "readouts.manifest.json"),
        f"{OTHERS}/readouts.manifest.json",
    ),
    "published scores and their manifests exchanged": (
        swap_in(IMAGES, OTHERS, "published.csv", "published.manifest.json"),
        f"{IMAGES}/published.manifest.json",
    ),
    "snapshots' images of two methods exchanged": (
        swap((SNAPSHOTS, SNAPSHOTS_B)),
        f"{SNAPSHOTS}/manifest.json",
    ),
    "snapshots' scores exchanged": (
        swap_in(SNAPSHOTS, SNAPSHOTS_B, "scores.csv"),
        f"{SNAPSHOTS}/scores.csv",
    ),
    "images of two snapshots exchanged": (
        swap((f"{SNAPSHOTS}/step-2", f"{SNAPSHOTS}/step-4")),
        f"{SNAPSHOTS}/step-2/00000.png",
    ),
    "base images exchanged": (swap((BASE, TEACHER)), f"{BASE}/manifest.json"),
    "a base image replaced": (put(f"{BASE}/00002.png", "?"), f"{BASE}/00002.png"),
    "images of a method put in the base's place": (
        lambda root: [shutil.rmtree(root / BASE), shutil.copytree(root / IMAGES, root / BASE)],
        f"{BASE}/manifest.json: made from",
    ),
    "a score edited": (SCORE, f"{IMAGES}/scores.csv"),
    "scores truncated": (drop_line(f"{IMAGES}/scores.csv"), f"{IMAGES}/scores.csv"),
    "a read-out edited": (
        edit(f"{IMAGES}/readouts.csv", "0.5", "0.9"),
        f"{IMAGES}/readouts.csv",
    ),
    "read-outs truncated": (drop_line(f"{IMAGES}/readouts.csv"), f"{IMAGES}/readouts.csv"),
    "a published score edited": (
        edit(f"{IMAGES}/published.csv", "0.5", "0.9"),
        f"{IMAGES}/published.csv",
    ),
    "a snapshot's score edited": (
        edit(f"{SNAPSHOTS}/scores.csv", "2,00000,gold,0.5", "2,00000,gold,0.9"),
        f"{SNAPSHOTS}/scores.csv",
    ),
    "a prompt edited": (PROMPT, "prompts/validation.jsonl"),
    "a training prompt edited": (
        edit("prompts/train.jsonl", "train 1", "?"),
        "prompts/train.jsonl",
    ),
    "prompts truncated": (drop_line("prompts/train.jsonl"), "prompts/train.jsonl"),
    "prompt sets exchanged": (
        swap(("prompts/train.jsonl", "prompts/validation.jsonl")),
        "prompts/train.jsonl",
    ),
    "prompt sets and their manifests exchanged": (
        swap(
            ("prompts/train.jsonl", "prompts/validation.jsonl"),
            ("prompts/train.manifest.json", "prompts/validation.manifest.json"),
        ),
        "prompts/train.manifest.json",
    ),
    "an image replaced": (PICTURE, f"{IMAGES}/00001.png"),
    "an image removed": (
        lambda root: (root / IMAGES / "00001.png").unlink(),
        f"{IMAGES}/00001.png",
    ),
    "a stray image": (put(f"{IMAGES}/00003.png", "?"), f"{IMAGES}/00003.png"),
    "a stray image of a snapshot": (
        put(f"{SNAPSHOTS}/step-2/00009.png", "?"),
        f"{SNAPSHOTS}/step-2/00009.png",
    ),
    "a stray snapshot": (
        put(f"{CELL}/snapshots/step-3.safetensors", "?"),
        f"{CELL}/snapshots/step-3.safetensors",
    ),
    "an index edited": (edit(f"{IMAGES}/index.jsonl", "…", "?"), f"{IMAGES}/index.jsonl"),
    "LoRAs exchanged": (swap_in(CELL, OTHER, "lora.safetensors"), f"{CELL}/lora.safetensors"),
    "trainings exchanged": (swap((CELL, OTHER)), f"{CELL}/manifest.json"),
    "a LoRA replaced by a snapshot": (
        lambda root: shutil.copy(
            root / CELL / "snapshots/step-2.safetensors", root / CELL / "lora.safetensors"
        ),
        f"{CELL}/lora.safetensors",
    ),
    "snapshots exchanged": (
        swap_in(f"{CELL}/snapshots", f"{OTHER}/snapshots", "step-2.safetensors"),
        f"{CELL}/snapshots/step-2.safetensors",
    ),
    "a history edited": (edit(f"{CELL}/history.csv", "3,0.1", "3,0.9"), f"{CELL}/history.csv"),
    "a history truncated": (drop_line(f"{CELL}/history.csv"), f"{CELL}/history.csv"),
    "a history edited and listed": (
        relist(edit(f"{CELL}/history.csv", "4,0.1,0.2,16", "4,0.1,0.2,8"), f"{CELL}/manifest.json"),
        f"{CELL}/manifest.json says reward_queries 16, where it was 8",
    ),
    "the cost of a training edited": (
        state(f"{CELL}/manifest.json", "job_seconds", 1.5),
        f"{CELL}/manifest.json",
    ),
    "the NFE of a training edited and sealed": (
        restate(f"{CELL}/manifest.json", "nfe", 9),
        f"{CELL}/manifest.json says nfe 9, where it was 64",
    ),
    "β in a manifest edited": (
        state(f"{CELL}/manifest.json", "beta", 1.0),
        f"{CELL}/manifest.json",
    ),
    "β in a manifest edited and sealed": (
        restate(f"{CELL}/manifest.json", "beta", 1.0),
        f"{CELL}/manifest.json says beta 1.0, where it was 0.05",
    ),
    "settings in a manifest edited": (
        edit(f"{CELL}/manifest.json", '"learning_rate": ', '"learning_rate": 1'),
        f"{CELL}/manifest.json",
    ),
    "weights in a manifest dropped": (
        state(f"{IMAGES}/manifest.json", "weights", {"elsewhere": "absent"}),
        f"{IMAGES}/manifest.json",
    ),
    "the time of an image edited": (
        state(f"{IMAGES}/manifest.json", "seconds_per_image", 0.1),
        f"{IMAGES}/manifest.json",
    ),
    "the code in a manifest edited": (
        state(f"{IMAGES}/scores.manifest.json", "code", "0" * 64),
        f"{IMAGES}/scores.manifest.json",
    ),
    "the commit in a record edited": (
        state("report.manifest.json", "commit", "0" * 40),
        "report.manifest.json",
    ),
    "what scores were made from emptied": (
        state(f"{IMAGES}/scores.manifest.json", "inputs", {}),
        f"{IMAGES}/scores.manifest.json",
    ),
    "what scores were made from emptied and sealed": (
        restate(f"{IMAGES}/scores.manifest.json", "inputs", {}),
        f"{IMAGES}/scores.manifest.json: not made from",
    ),
    "a table edited": (put("tables/table1.csv", "?"), "tables/table1.csv"),
    "a table's LaTeX edited": (put("tables/table1.tex", "?"), "tables/table1.tex"),
    "two tables exchanged": (
        swap(("tables/table1.md", "tables/table3.md")),
        "tables/table1.md",
    ),
    "a table's record edited": (
        state("tables/table1.manifest.json", "inputs", {}),
        "tables/table1.manifest.json",
    ),
    "a figure edited": (put("figures/figure2.png", "?"), "figures/figure2.png"),
    "the data of a figure edited": (put("figures/figure2.csv", "?"), "figures/figure2.csv"),
    "the claims' text edited": (put("claims.md", "?"), "claims.md"),
    "the claims edited": (put("claims.json", "?"), "claims.json"),
    "the report edited": (put("report.html", "?"), "report.html"),
    "the report halved": (halve("report.html"), "report.html"),
    "the agreement of scorers edited": (
        put("tables/scorer_agreement.csv", "?"),
        "tables/scorer_agreement.csv",
    ),
    "what raters said edited": (put("study/results.json", "?"), "study/results.json"),
    "votes edited after they were counted": (
        put("study/votes.jsonl", "?"),
        "study/results.manifest.json: made from another",
    ),
    # By somebody who mends the hash of the file itself: what was made from it does not fit.
    "prompts edited and listed": (
        relist(PROMPT, "prompts/validation.manifest.json"),
        f"{IMAGES}/manifest.json: made from another",
    ),
    "a LoRA replaced and listed": (
        relist(LORA, f"{CELL}/manifest.json"),
        f"{IMAGES}/manifest.json: made from another",
    ),
    "an image replaced and listed": (
        relist(PICTURE, f"{IMAGES}/manifest.json"),
        f"{IMAGES}/scores.manifest.json: made from another",
    ),
    "a score edited and listed": (
        relist(SCORE, f"{IMAGES}/scores.manifest.json"),
        "tables/table1.manifest.json: made from another",
    ),
    "the claims edited and listed": (
        relist(put("claims.json", "?"), "claims.manifest.json"),
        "report.manifest.json: made from another",
    ),
    "a cost edited and sealed": (
        restate(f"{CELL}/manifest.json", "job_seconds", 1.5),
        "report.manifest.json: made from another",
    ),
}


def test_the_run_is_whole_before_it_is_corrupted(run):
    assert problems(run) == []


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_corruption_is_found(run, case):
    corrupt, named = CORRUPTIONS[case]
    corrupt(run)
    found = problems(run)
    assert any(str(run / named) in line for line in found), "\n".join(found)


def test_a_run_that_was_moved_is_whole(run, tmp_path):
    run.rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy")
    assert problems(tmp_path / "elsewhere") == problems(tmp_path / "copy") == []


def test_only_a_signature_could_find_hashes_that_are_all_rewritten(run):
    """From an artefact up to the report: docs/reruns.md says so."""
    SCORE(run)
    changes = True
    while changes:
        changes = False
        for path in run.rglob("*manifest.json"):
            content = json.loads(path.read_text())
            content["inputs"] = {n: content_digest(path.parent / n) for n in content["inputs"]}
            path.write_text(json.dumps(content))
            changes |= seal(path)
    assert problems(run) == []


def test_what_nothing_is_made_from_is_not_checked(run):
    """Logs and benchmarks say how a job went; who accepted results vouches by name."""
    for name in ("logs/train.log", "benchmarks/train.tsv"):
        (run / name).parent.mkdir()
        (run / name).write_text("?")
    state(f"{CELL}/manifest.json", "accepted", [{"code": "0", "by": "?", "at": "?"}])(run)
    assert problems(run) == []
