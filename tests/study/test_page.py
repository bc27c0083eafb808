"""The page in a real browser: what raters press, see and lose when things break (nothing)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from checkout import ROOT
from shapes_study import FIRST, SECOND, make_study, read_png, settings, write_samples

from rocm_core.prompts import read_prompts
from rocm_core.study import simulate
from rocm_core.study.aggregate import aggregate
from rocm_core.study.build import build
from rocm_core.study.design import QUESTIONS, Key
from rocm_core.study.votes import read_votes

pytestmark = pytest.mark.skipif(
    "ROCM_NEEDS_BROWSER" not in os.environ and not any(map(shutil.which, simulate.BROWSERS)),
    reason="no Chromium is installed",
)
PAIRS = 6


@dataclass
class Server:
    """`python -m rocm_core.study serve` on a port of its own, to be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def start(self):
        command = [sys.executable, "-m", "rocm_core.study", "serve", "--study", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()
        self.links = [self.process.stdout.readline().strip() for _ in Key.read(self.folder).raters]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    @property
    def votes(self):
        return read_votes(self.folder / "votes.jsonl")


@pytest.fixture(scope="module")
def browser():
    with simulate.open_browser() as browser:
        yield browser


@pytest.fixture
def context(browser):
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def server(tmp_path):
    folder, _ = make_study(tmp_path, PAIRS)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        server = Server(folder, free.getsockname()[1])
    server.start()
    yield server
    server.kill()


def answer(page, keys):
    page.wait_for_selector("fieldset.current")
    for key in keys:
        page.keyboard.press(key)


def wait_for_progress(page, done):
    page.wait_for_function(
        "text => document.querySelector('#progress').textContent === text", arg=f"{done} of {PAIRS}"
    )


def test_what_simulated_raters_press_in_the_page_is_what_the_key_makes_of_their_votes(
    tmp_path, browser
):
    folder, key = make_study(tmp_path, PAIRS)
    simulate.simulate(folder, browser, raters=2, seed=5)
    votes = read_votes(folder / "votes.jsonl")
    assert len({(vote.rater, vote.pair) for vote in votes}) == len(votes) == 2 * PAIRS
    aggregate(folder)
    assert json.loads((folder / "results.json").read_text())["simulated"]  # not of people
    texts = {p.id: p.text for p in write_samples(tmp_path / "again", PAIRS)[1]}
    for number, code in enumerate(key.raters):
        rater = simulate.SimulatedRater(5 + number)
        for vote in (vote for vote in votes if vote.rater == code):
            pair = key.pairs[vote.pair]
            images = []
            for side in (vote.left, vote.right):
                model = {pair.first: FIRST, pair.second: SECOND}[side]
                file = tmp_path / "samples" / model / f"validation/steps-4/{pair.prompt}.png"
                images.append(read_png(file))
            meaning = {"a": vote.left, "b": vote.right, "s": "tie"}
            pressed = rater.keys(texts[pair.prompt], *images)
            assert vote.answers == dict(
                zip(QUESTIONS, (meaning[key] for key in pressed), strict=True)
            )


def test_a_killed_server_and_a_closed_tab_lose_no_vote(server, context):
    page = context.new_page()
    simulate.begin(page, server.links[0])
    answer(page, ["a", "a", "b", "Enter"])
    wait_for_progress(page, 1)
    assert len(server.votes) == 1  # on the disk before the next pair is shown
    server.kill()
    answer(page, ["b", "s", "b", "Enter"])
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#progress") == f"1 of {PAIRS}"
    server.start()
    wait_for_progress(page, 2)  # by itself
    answer(page, [])  # the next pair's images have come
    server.kill()
    answer(page, ["s", "a", "s", "Enter"])
    page.wait_for_selector("#notice:not([hidden])")
    third = page.get_attribute("#left", "src")
    page.close()
    server.start()
    page = context.new_page()
    page.goto(server.links[0])
    page.wait_for_selector("#begin:enabled")
    assert page.inner_text("#begin").endswith("go on after 3 pairs")
    page.click("#begin")
    wait_for_progress(page, 3)
    answer(page, [])
    assert page.get_attribute("#left", "src") != third
    votes = server.votes
    assert len({vote.pair for vote in votes}) == len(votes) == 3
    named = [
        ["tie" if a == "tie" else "left" if a == v.left else "right" for a in v.answers.values()]
        for v in votes
    ]
    assert named == [["left", "left", "right"], ["right", "tie", "right"], ["tie", "left", "tie"]]


def test_a_half_answered_pair_is_shown_again_after_a_closed_tab(server, context):
    page = context.new_page()
    simulate.begin(page, server.links[1])
    answer(page, ["a", "b"])
    shown = page.get_attribute("#left", "src")
    page.close()
    page = context.new_page()
    simulate.begin(page, server.links[1])
    answer(page, [])
    assert page.get_attribute("#left", "src") == shown
    assert not server.votes and page.locator("input:checked").count() == 0


def test_a_double_click_or_a_leaning_finger_counts_once(server, context):
    page = context.new_page()
    sent = []
    page.on("request", lambda request: sent.append(request.method))
    page.route("**/votes", lambda route: (time.sleep(0.5), route.continue_()))
    simulate.begin(page, server.links[0])
    answer(page, ["a", "a", "a"])
    page.dblclick("#next")
    wait_for_progress(page, 1)
    answer(page, ["b", "b", "b", "Enter", "Enter"])
    wait_for_progress(page, 2)
    answer(page, [])
    assert sent.count("POST") == len(server.votes) == 2


def test_two_tabs_of_one_rater_count_a_pair_once(server, context):
    tabs = [context.new_page() for _ in range(2)]
    for tab, key in zip(tabs, "ab", strict=True):
        simulate.begin(tab, server.links[0])
        answer(tab, [key] * 3)
    for tab in tabs:
        tab.bring_to_front()
        tab.keyboard.press("Enter")
        wait_for_progress(tab, 1)
    assert [set(vote.answers.values()) == {vote.left} for vote in server.votes] == [True]


def test_answers_can_be_changed_until_next_and_every_control_has_a_name(server, context):
    page = context.new_page()
    simulate.begin(page, server.links[0])
    answer(page, ["a", "b", "Backspace", "ArrowDown", "ArrowRight"])
    group = page.get_by_role("group", name="Which image looks better")
    assert group.get_by_role("radio", name="A").is_checked()
    group.get_by_role("radio", name="B").check(force=True)
    assert page.get_by_role("img", name="Image A").is_visible()
    assert page.get_by_role("progressbar", name="Progress").count() == 1
    page.get_by_role("button", name="Next").click()
    wait_for_progress(page, 1)
    (vote,) = server.votes
    assert list(vote.answers.values()) == [vote.right, "tie", vote.right]


def test_nothing_is_shown_or_loaded_before_the_warning_is_accepted(server, context):
    page = context.new_page()
    loaded = []
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(server.links[0])
    page.wait_for_selector("#begin:enabled")
    assert "unsafe for work" in page.inner_text("#welcome")
    assert not page.is_visible("#voting") and not page.inner_text("#prompt")
    assert not [url for url in loaded if "images/" in url]
    page.click("#begin")
    answer(page, [])
    assert page.is_visible("#prompt") and not page.is_visible("#welcome")
    root = server.links[0].partition("?")[0]
    assert len(loaded) > 5 and all(url.startswith((root, "data:")) for url in loaded)


@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_fits_a_phone_and_a_desk(server, context, width):
    page = context.new_page()
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": width, "height": 800})
    simulate.begin(page, server.links[2])
    answer(page, [])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (page.locator(side).bounding_box() for side in ("#left", "#right"))
    assert left["width"] == pytest.approx(right["width"], abs=0.1)
    assert left["y"] == right["y"] and left["width"] >= 0.4 * min(width, 1000)
    assert left["x"] + left["width"] <= right["x"]
    smallest = [box.bounding_box()["height"] for box in page.locator(".options label").all()]
    assert min(smallest) >= 44  # pixels, what a finger needs
    assert not errors


def test_a_prompt_is_text_whatever_it_says(tmp_path, context):
    folders, prompts = write_samples(tmp_path, 2)
    text = "<img src=x onerror=\"document.title='owned'\"></script><script>alert(1)</script>"
    prompts = [replace(prompt, text=text) for prompt in prompts]
    for folder in folders.values():
        rows = [{"prompt_id": p.id, "text": p.text, "file": f"{p.id}.png"} for p in prompts]
        (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(settings(2), folders, prompts, tmp_path / "study")
    page = context.new_page()
    simulate.begin(page, (tmp_path / "study/page/index.html").as_uri())
    answer(page, [])
    assert page.text_content("#prompt") == text
    assert page.title() == "Which image is better?" and page.locator("h1 *").count() == 0


def test_the_page_can_be_looked_at_without_a_server(server, context):
    page = context.new_page()
    simulate.begin(page, (server.folder / "page/index.html").as_uri())
    for done in range(PAIRS):
        wait_for_progress(page, done)
        answer(page, ["a", "b", "s", "Enter"])
    page.wait_for_selector("#thanks:not([hidden])")
    assert "preview" in page.inner_text("#end") and not server.votes


def test_a_rater_is_told_that_the_study_has_been_built_again(server, context, tmp_path):
    page = context.new_page()
    simulate.begin(page, server.links[0])
    answer(page, ["a", "a", "a"])
    samples = {m: tmp_path / f"samples/{m}/validation/steps-4" for m in (FIRST, SECOND)}
    build(
        settings(PAIRS, ties=False),
        samples,
        read_prompts(tmp_path / "prompts.jsonl"),
        server.folder,
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice").startswith(
        "The study is being changed. Your answers are kept"
    )
    server.kill()
    server.start()
    page.wait_for_function("() => document.querySelector('#notice').innerText.endsWith('go on.')")
    assert not server.votes
    simulate.begin(page, server.links[0])
    answer(page, ["a", "a", "a", "Enter"])
    wait_for_progress(page, 1)
    assert len(server.votes) == 1


def test_a_forged_link_is_told_so(server, context):
    page = context.new_page()
    page.goto(server.links[0][:-1] + "x")
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice") == "This link belongs to no rater of the study."
    assert page.is_disabled("#begin")


def test_a_pair_that_the_disk_has_no_room_for_is_sent_again(server, context):
    page = context.new_page()
    full = [True, True]
    refusal = {"status": 507, "json": {"error": "The vote could not be stored."}}
    page.route(
        "**/votes",
        lambda route: route.fulfill(**refusal) if full and full.pop() else route.continue_(),
    )
    simulate.begin(page, server.links[0])
    answer(page, ["a", "a", "a", "Enter"])
    wait_for_progress(page, 1)
    assert not full and len(server.votes) == 1
