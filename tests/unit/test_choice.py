"""A search: its trials as cells of the grid, and the choice that held-out scorers make."""

import csv
from itertools import product

import pytest
from synthetic import make_config

from rocm_core.analysis import Trained, choose, halves, held_out
from rocm_core.errors import UserError
from rocm_core.grid import Artefacts, is_held_out, job_code, settle

SEARCH = {"search": [0.01, 0.1, 1.0], "iterations": 3}
IDS = [f"p{number}" for number in range(8)]


def searching(**changes):
    methods = {"rocm-none": {}, "rocm-kl": {"beta": SEARCH}}
    return make_config(**{"methods": methods, "seeds": [0, 1]} | changes)


def test_every_value_is_a_trial_of_one_seed_and_the_final_cells_wait_for_the_choice(tmp_path):
    files = Artefacts(searching(rewards=["hpsv2"]), tmp_path)
    trials = [cell for cell in files.cells.values() if cell.trial]
    assert [cell.name for cell in trials] == [
        f"hpsv2/rocm-kl--beta-{value:g}--iterations-3/seed-0" for value in SEARCH["search"]
    ]
    assert all(cell.settings.iterations == 3 for cell in trials)
    assert [cell.settings.beta for cell in trials] == SEARCH["search"]
    choice = tmp_path / "search/hpsv2/rocm-kl.json"
    for seed in (0, 1):
        assert files.choice(f"hpsv2/rocm-kl/seed-{seed}") == [choice]
        assert files.choice(f"hpsv2/rocm-none/seed-{seed}") == []
    assert files.tried("hpsv2", "rocm-kl") == [{"beta": value} for value in SEARCH["search"]]


def test_what_is_searched_together_is_tried_in_every_combination():
    rate = {"search": [1e-3, 1e-4], "iterations": 3}
    methods = {"rocm-kl": {"beta": SEARCH, "learning_rate": rate}}
    config = searching(rewards=["hpsv2"], methods=methods)
    files = Artefacts(config, "nowhere")
    pairs = list(product(SEARCH["search"], rate["search"]))
    tried = [(trial["beta"], trial["learning_rate"]) for trial in files.tried("hpsv2", "rocm-kl")]
    assert sorted(tried) == sorted(pairs)
    methods["rocm-kl"]["learning_rate"] = rate | {"iterations": 4}
    with pytest.raises(UserError, match="learning_rate and beta are searched together: give both"):
        Artefacts(searching(rewards=["hpsv2"], methods=methods), "nowhere")


def test_a_search_changes_neither_a_trial_nor_a_cell_that_is_not_searched():
    plain = Artefacts(searching(methods={"rocm-none": {}, "rocm-kl": {"beta": 0.1}}), "nowhere")
    files = Artefacts(searching(), "nowhere")
    same = "hpsv2/rocm-none/seed-0"
    assert files.cells[same] == plain.cells[same]
    fewer = SEARCH | {"search": [0.1, 1.0]}
    narrowed = Artefacts(searching(methods={"rocm-kl": {"beta": fewer}}), "nowhere")
    trial = "hpsv2/rocm-kl--beta-0.1--iterations-3/seed-0"
    assert narrowed.cells[trial] == files.cells[trial]
    settings = files.cells["hpsv2/rocm-kl/seed-0"].settings
    assert settle(settings, {"beta": 0.1}) == plain.cells["hpsv2/rocm-kl/seed-0"].settings
    assert job_code("train", settings) == job_code("train", settle(settings, {"beta": 0.1}))


@pytest.mark.parametrize("chosen", [{}, {"learning_rate": 0.1}, {"beta": 0.1, "lora_rank": 4}])
def test_settings_take_a_value_for_what_is_searched_and_for_nothing_else(chosen):
    settings = Artefacts(searching(), "nowhere").cells["hpsv2/rocm-kl/seed-0"].settings
    with pytest.raises(UserError, match="^beta is to be searched, but the search chose"):
        settle(settings, chosen)


def write(path, **metrics):
    """Scores: of each metric a list with one number per prompt."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt_id", "metric", "value"])
        for metric, values in metrics.items():
            rows.writerows(
                [prompt, metric, value] for prompt, value in zip(IDS, values, strict=True)
            )
    return path


def test_held_out_scorers_choose_on_one_half_of_the_prompts(tmp_path):
    spread = [0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0]
    base = write(tmp_path / "base.csv", hpsv2=spread, aesthetic=spread, gold=spread)
    chosen, left = halves(IDS)
    assert chosen == ["p0", "p2", "p4", "p6"] and left == ["p1", "p3", "p5", "p7"]

    def raised(name, prompts, **gains):
        scores = {
            metric: [
                value + gains.get(metric, 0.0) * (prompt in prompts)
                for prompt, value in zip(IDS, spread, strict=True)
            ]
            for metric in ("hpsv2", "aesthetic", "gold")
        }
        return write(tmp_path / f"{name}.csv", **scores)

    trials = [
        ({"beta": 0.1}, raised("hacks", IDS, hpsv2=9.0, gold=9.0)),
        ({"beta": 1.0}, raised("best", chosen, hpsv2=8.0, aesthetic=0.5)),
        ({"beta": 10.0}, raised("elsewhere", left, hpsv2=9.0, aesthetic=5.0)),  # where nobody looks
    ]
    choice = choose(Trained("hpsv2"), trials, base)
    assert choice["chosen"] == {"beta": 1.0} and choice["edge"] == []
    assert choice["metrics"] == ["aesthetic"] and choice["prompts"] == 4
    merits = [trial["merit"] for trial in choice["trials"]]
    assert merits == pytest.approx([0.0, 0.5, 0.0])
    assert choose(Trained("hpsv2"), trials[:2], base)["edge"] == ["beta"]
    with pytest.raises(UserError, match="nothing but hpsv2 scores a search: add another metric"):
        choose(Trained("hpsv2"), trials, write(tmp_path / "alone.csv", hpsv2=spread))


def test_held_out_scorers_choose_among_what_has_learned_nearly_as_much_as_the_most(tmp_path):
    """What stays where it is loses nothing."""

    def trained(name, gain, merit):
        scores = {"hpsv2": [gain] * len(IDS), "aesthetic": [merit] * len(IDS)}
        return write(tmp_path / f"{name}.csv", **scores)

    base = trained("base", 0.0, 0.0)
    trials = [
        ({"beta": 100.0}, trained("frozen", 0.0, 0.0)),
        ({"beta": 10.0}, trained("slow", 0.71, -0.1)),
        ({"beta": 1.0}, trained("held", 0.73, -0.2)),
        ({"beta": 0.1}, trained("hacked", 0.9, -0.6)),
    ]
    choice = choose(Trained("hpsv2"), trials, base)
    assert choice["chosen"] == {"beta": 1.0}
    assert [trial["learned"] for trial in choice["trials"]] == [False, False, True, True]
    assert [trial["gain"] for trial in choice["trials"]] == pytest.approx([0.0, 0.71, 0.73, 0.9])

    worse = [({"beta": float(n)}, trained(f"worse-{n}", -n, -n)) for n in (1, 2)]
    choice = choose(Trained("hpsv2"), worse, base)  # nothing has learned anything
    assert choice["chosen"] == {"beta": 1.0}
    still = [({"beta": float(n)}, trained(f"still-{n}", 0.0, 0.0)) for n in (1, 2)]
    for tries in (worse, still):
        told = choose(Trained("hpsv2"), tries, base)["trials"]
        assert not any(trial["learned"] for trial in told)
    alone = [
        (values, write(path.with_suffix(".alone.csv"), aesthetic=[merit] * len(IDS)))
        for (values, path), merit in zip(trials, (0.0, -0.1, 0.1, -0.6), strict=True)
    ]
    unmeasured = write(tmp_path / "unmeasured.csv", aesthetic=[0.0] * len(IDS))
    assert choose(Trained("hpsv2"), alone, unmeasured)["chosen"] == {"beta": 1.0}


def test_trials_of_other_prompts_are_refused(tmp_path):
    base = write(tmp_path / "base.csv", aesthetic=[1.0] * len(IDS))
    other = tmp_path / "other.csv"
    other.write_text(base.read_text().replace("\np", "\nq"))
    with pytest.raises(UserError, match="other.csv are not of the prompts that choose"):
        choose(Trained("hpsv2"), [({"beta": 1.0}, base), ({"beta": 2.0}, other)], base)


@pytest.mark.parametrize("script", ["choose", "choose_snapshot"])
def test_a_choice_stays_when_the_way_results_are_shown_changes(script):
    from rocm_core.provenance import module_closure

    follows = module_closure(f"workflow/scripts/{script}.py")
    assert "rocm_core.analysis.choice" in follows
    assert not {"rocm_core.analysis.results", "rocm_core.analysis.labels"} & {*follows}


def test_a_measure_of_a_task_judges_nothing_that_was_trained_on_another():
    """Else the size of a file would count for, and with its sign turned against, every model."""
    tasks = ["jpeg_compressibility", "jpeg_incompressibility", "sparse_redness", "drifting_hue"]
    assert held_out([*tasks, "hpsv2", "aesthetic", "gold"], {"aesthetic"}) == ["hpsv2"]
    assert not is_held_out(
        "jpeg_compressibility", ["smooth_jpeg_compressibility"]
    )  # it stands for it
