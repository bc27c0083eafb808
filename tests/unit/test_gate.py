"""The gate on a real run of config/pilot.yaml on tiny twins, and each of its checks failed."""

import functools
import re
import sys

import pytest
import twins
import yaml
from checkout import ROOT
from small_pilot import BASES, CONFIG, KL, NONE, RLCM, anchors_of, write_pilot

import rocm_core.commands.gate
import rocm_core.evaluation.scores
from rocm_core.analysis import Results, checks, only, read_anchors
from rocm_core.commands.render import render
from rocm_core.errors import UserError, run
from rocm_core.evaluation import generate, measure_folder, score_folder
from rocm_core.grid import Artefacts, load_config, make_grid
from rocm_core.prompts import make_prompts, write_prompts
from rocm_core.rewards import hpsv2, load_reward
from rocm_core.training import train


def make_run(config, files) -> None:
    """What the workflow's jobs do, in this process."""
    prompts = {name: make_prompts(settings) for name, settings in config.prompts.items()}
    for name, own in prompts.items():
        write_prompts(files.layout.prompts(name), own)
    for name, cell in files.cells.items():
        own, place = files.layout.cell(name), files.layout.state(name, "test")
        train(cell.settings, prompts[cell.settings.prompts], own.folder, place, "code")
    for source, prompt_set, images in files.folders():
        lora = files.layout.cell(source).lora if source in files.cells else None
        drawn = files.generation(source, images.steps)
        generate(drawn, prompts[prompt_set], lora, images.folder, "code")
        score_folder(config.scorer_paths(), images.folder, images.scores, "code")
        measure_folder(images.folder, images.readouts, files.clip, "code")
    render("figure", "figure2", config, config.root, config.root / "figures/figure2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the twins and a finished pilot on them."""
    root = tmp_path_factory.mktemp("pilot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)
        patch.setattr(rocm_core.evaluation.scores, "load_reward", functools.cache(load_reward))
        write_pilot()
        config = load_config(CONFIG)
        make_run(config, Artefacts(config))
    return root


@pytest.fixture
def pilot(place, monkeypatch):
    monkeypatch.chdir(place)
    return load_config(CONFIG)


def changed(frame, column, make, **where):
    """An edit of results: `make` new values of a column in those rows of a frame."""

    def edit(results):
        data = getattr(results, frame).copy()
        rows = only(data, **where).index
        data.loc[rows, column] = make(data.loc[rows, column])
        results.__dict__[frame] = data

    return edit


def shifted(by, **where):
    return changed("final", "value", lambda value: value + by, **where)


def trained(column, factor, method="rocm-kl", plus=0.0):
    return changed("histories", column, lambda value: factor * value + plus, method=method)


def alike(method, factor):
    where = {"method": method, "metric": "pixel_diversity"}
    return changed("readouts", "value", lambda value: factor * value, **where)


def gaining(share):
    """ROCM with KL gains this share of what it gains without a divergence."""

    def edit(results):
        free, held = (results.change("aesthetic", m, "aesthetic") for m in ("rocm-none", "rocm-kl"))
        shifted(share * free.mean - held.mean, method="rocm-kl", metric="aesthetic")(results)

    return edit


def rounding(results):
    results.manifests[KL]["squared_distance_floor"] = 1e3


def unmeasured(results):
    data = results.histories
    results.__dict__["histories"] = data.drop(columns=[c for c in data if "squared_d" in c])


FAILURES = [
    *((f"{metric} of {BASES[1]}", shifted(9.0, method=BASES[1], metric=metric)) for metric in (
        "pickscore", "hpsv2_0", "aesthetic", "imagereward")),
    (f"hpsv2 of {BASES[0]}", shifted(-9.0, method=BASES[0], metric="hpsv2")),
    (f"images of {BASES[1]} differ between prompts", alike(BASES[1], 0.1)),
    (f"images of {RLCM} differ between prompts", alike("rlcm", 0.4)),
    ("aesthetic/rocm-none rises in 12 steps", shifted(-9, method="rocm-none", metric="aesthetic")),
    ("aesthetic/rocm-kl rises with it", gaining(0.45)),
    ("aesthetic/rocm-kl rises with it", gaining(-0.1)),
    (f"d² per dimension of {KL}", trained("squared_distance_2", 0.0)),
    (f"d² per dimension of {KL}", trained("squared_distance_3", 0.0, plus=150.0)),
    (f"d² per dimension of {KL}", rounding),
    (f"d² per dimension of {KL}", unmeasured),
    (f"{RLCM} starts where the published curve does", trained("mean_reward", 1.0, "rlcm", 0.6)),
    (f"{RLCM} rises as the published curve does", trained("mean_reward", 0.3, "rlcm", 0.45)),
    (f"seconds per image of {NONE}", trained("training_seconds", 1e9, "rocm-none")),
    (f"seconds per image of {RLCM}", trained("training_seconds", 1e-9, "rlcm")),
    (f"memory of {KL}", trained("peak_memory_gib", 1e3)),
    (f"memory of {KL}", trained("peak_memory_gib", 1e-3)),
]  # fmt: skip


def failed(results, anchors):
    return [check for check in checks(results, anchors) if not check.passed]


def test_a_run_that_meets_the_anchors_passes_with_a_line_for_each_check(pilot):
    results = Results(pilot, pilot.root)
    made = checks(results, anchors_of(results))
    assert [check.name for check in made if not check.passed] == []
    assert len({check.name for check in made}) == len(made) == 28
    assert all(str(check).startswith(f"passed  {check.name}: ") for check in made)


@pytest.mark.parametrize(("name", "edit"), FAILURES)
def test_what_is_wrong_fails_its_own_check(pilot, name, edit):
    results = Results(pilot, pilot.root)
    anchors = anchors_of(results)
    edit(results)
    if name.startswith("hpsv2"):  # of which the difference speaks, too
        anchors = anchors.model_copy(update={"differences": ()})
    (check,) = failed(results, anchors)
    assert check.name == name
    line = str(check)
    assert line.startswith(f"FAILED  {name}: {check.measured}; expected {check.expected}. ")
    assert line.endswith(check.remedy) and len(check.remedy) > 20


@pytest.mark.parametrize(
    "edit",
    [gaining(0.55), alike("rlcm", 0.6), trained("squared_distance_3", 0.0, plus=50.0)]
    + [trained("mean_reward", 0.7, "rlcm", 0.2), shifted(1e-6, metric="pickscore")],
)
def test_what_is_within_its_tolerance_passes(pilot, edit):
    results = Results(pilot, pilot.root)
    anchors = anchors_of(results)
    edit(results)
    assert failed(results, anchors) == []


def test_two_versions_with_the_same_weights_fail_their_difference_alone(pilot):
    results = Results(pilot, pilot.root)
    anchors = anchors_of(results)
    (one,) = anchors.differences
    apart = one.model_copy(update={"centre": one.centre + 3 * one.mean})
    names = [
        check.name
        for check in failed(results, anchors.model_copy(update={"differences": (apart,)}))
    ]
    assert names == [f"hpsv2_0 less hpsv2 of {base}" for base in BASES][: len(names)] and names


def command(monkeypatch, capsys, *arguments):
    """Exit status, lines of stdout and stderr of the command."""
    argv = ["gate", "--configfile", CONFIG, *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        run(rocm_core.commands.gate.main)
    told = capsys.readouterr()
    return end.value.code, told.out.splitlines(), told.err


def test_there_is_one_verdict_and_one_exit_code(pilot, monkeypatch, capsys, tmp_path):
    problems: list[str] = []  # the renderings are not there for `verify`
    monkeypatch.setattr(rocm_core.commands.gate, "verify", lambda config: (problems, []))
    file = tmp_path / "anchors.yaml"
    anchors = anchors_of(Results(pilot, pilot.root))
    file.write_text(yaml.safe_dump(anchors.to_dict()))
    status, lines, _ = command(monkeypatch, capsys, "--anchors", str(file))
    assert status == 0 and len(lines) == 30
    assert lines[-1] == "verdict: passed, 29 checks: the grid is worth its GPU hours"
    problems.append("history.csv is not the file that its manifest lists")
    status, lines, _ = command(monkeypatch, capsys, "--anchors", str(file))
    assert status == 1 and lines[-1].startswith("verdict: FAILED, 1 of 29 checks")
    assert lines[-2].startswith("FAILED  results as configured: history.csv is not")
    file.write_text(yaml.safe_dump(anchors.to_dict() | {"memory": [1, 2]}))
    status, lines, said = command(monkeypatch, capsys, "--anchors", str(file))
    assert status == 2 and lines == [] and "memory" in said and str(file) in said


def test_an_unfinished_or_another_run_says_what_to_do(pilot, monkeypatch, capsys, tmp_path):
    def refusal(*arguments):
        status, lines, said = command(monkeypatch, capsys, *arguments)
        assert status == 2 and lines == [] and said.count("\n") == 1
        return said

    assert "resolution is 8, but the anchors are about images of 512 pixels: name" in refusal()
    file = tmp_path / "anchors.yaml"
    file.write_text(yaml.safe_dump(read_anchors().to_dict() | {"resolution": 8}))
    anchors = ("--anchors", str(file))
    for path in (f"cells/{RLCM}/history.csv", "figures/figure2.png"):
        file = pilot.root / path
        file.rename(file.with_suffix(".away"))
        assert f"{file} is missing: run `snakemake all" in refusal(*anchors)
        file.with_suffix(".away").rename(file)
    results = Results(load_config(CONFIG, {"methods": {"rocm-none": {}}}), pilot.root)
    with pytest.raises(UserError, match="aesthetic/rlcm is not a cell"):
        checks(results, anchors_of(Results(pilot, pilot.root)))


def test_the_pilot_is_the_papers_grid_in_little():
    """And RLCM is trained as in config/rlcm.yaml; what the files share may not drift apart."""
    pilot, paper, rlcm = (
        load_config(ROOT / f"config/{n}.yaml") for n in ("pilot", "paper", "rlcm")
    )
    for key in ("policies", "scorers", "resolution", "generation"):
        assert getattr(pilot, key) == getattr(paper, key)
    assert all(pilot.prompts[name] == paper.prompts[name] for name in pilot.prompts)
    cells = {cell.name: cell.settings for cell in make_grid(pilot)}
    for grid, names in ((paper, (NONE, KL, "aesthetic/ddpo/seed-0")), (rlcm, (RLCM,))):
        theirs = {cell.name: cell.settings for cell in make_grid(grid)}
        for name in names:
            ours, other = cells[name].to_dict(), theirs[name].to_dict()
            apart = {key for key in ours if ours[key] != other.get(key)}
            short = {"iterations", "snapshot_every", "learning_rate", "lora_rank", "beta"}
            of_rlcm = {"iterations", "snapshot_every", "learning_rate_end", "resolution", "prompts"}
            assert apart <= (of_rlcm if name == RLCM else short), (name, apart)
    tflop, images = read_anchors().tflop, {}
    for cell in make_grid(pilot):
        s = cell.settings
        images[cell.name] = s.iterations * s.batch_size * s.accumulation_steps * tflop[cell.method]
    assert sum(images.values()) / 40 / 3600 < 1.5  # hours at 40 TFLOP/s, before images and scores


def test_the_documents_tables_are_the_anchors():
    text = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
    anchors = read_anchors()
    for anchor in [*anchors.scores.values(), *anchors.differences]:
        assert re.search(rf"\| {anchor.centre:.4g}0? \| ± {anchor.mean} \|", text), anchor
    for queries, reward in anchors.curve.points:
        assert f"{reward:.2f}" in text and (queries == 0 or f"{queries:,.0f}" in text)
