import base64
import io
import json
import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import glossary
import pytest
from markupsafe import escape
from PIL import Image, PngImagePlugin
from synthetic import make_config, write_results

from rocm_core.analysis import Results
from rocm_core.commands.publish_report import publish
from rocm_core.commands.render import render
from rocm_core.errors import UserError
from rocm_core.grid import make_grid, offered
from rocm_core.prompts import Prompt, write_prompts
from rocm_core.provenance import Layout
from rocm_core.report.build import make, read
from rocm_core.report.terms import TERMS, anchor
from rocm_core.study import simulate

EFFECTS = {
    ("hpsv2", "rocm-none"): {"hpsv2": 0.05, "gold": -0.3, "aesthetic": -1.0, "clipscore": 0.1},
    ("hpsv2", "rocm-kl"): {"hpsv2": 0.02, "gold": 0.1},
}


PART = {"expects": "more", "shown": "+0.50 SD [+0.40, +0.60]", "details": "p < 0.001"}
CLAIMS = [
    {"id": "Q1", "claim": "A control is beaten", "verdict": "confirmed", "decisive": 1}
    | {
        "parts": [
            PART | {"label": n, "outcome": o} for n, o in (("one <b>", "open"), ("two", "holds"))
        ]
    },
    {"id": "13", "claim": "Nothing is lost", "verdict": "refuted", "decisive": None}
    | {"parts": [PART | {"label": "three", "outcome": "fails"}]},
    {
        "id": "R4",
        "claim": "RLCM is better",
        "verdict": "not tested",
        "decisive": None,
        "parts": [],
        "scope": "",
    },
]
LIMIT = "One training seed: Q1 is about it alone."


def write_claims(root):
    """A ledger of three claims; what real ones say is the business of test_claims.py."""
    told = {"test": "as it is tested", "reason": "2 parts: 1 holds", "scope": "one training"}
    told["stated"] = {"paper": "ROCM paper", "where": "section 4.1, table 1", "number": "unknown"}
    told["stated"]["shown_in"] = ["table1", "gold_vs_reward", "figure3"]
    claims = [told | claim for claim in CLAIMS]
    (root / "claims.json").write_text(json.dumps({"claims": claims, "limits": [LIMIT]}))


class Page(HTMLParser):
    """Tags that need an end, and what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.scripts = [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.scripts += tag == "script"
        # What is beside the page is opened by a click, never loaded.
        self.loads += [found[name] for name in ("src", "href", "srcset") if name in found]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make_config()
    write_results(root, config, EFFECTS, size=8)
    write_claims(root)
    (root / "figures").mkdir()
    for name in offered("figures", config):
        about = PngImagePlugin.PngInfo()
        about.add_text("Title", f"Picture {name}")
        about.add_itxt("Description", f"Caption of {name}, n = 16 ± 0.")
        Image.new("RGB", (4, 4)).save(root / "figures" / f"{name}.png", pnginfo=about)
    return config, root


def reading(results, reward, method):
    (found,) = [r for r in read(results) if (r.trained_on, r.method) == (reward, method)]
    return found


def test_readings_follow_from_the_planted_effects(finished):
    results = Results(*finished)
    hacked = reading(results, "hpsv2", "rocm-none")
    assert hacked.phrase == "reward rises, gold judge falls"
    assert hacked.gold.mean == pytest.approx(-0.3, abs=0.03) and hacked.gold.n == 40
    assert hacked.held_out == {"rises": 1, "falls": 1, "undecided": 0}
    assert reading(results, "hpsv2", "rocm-kl").phrase == "reward rises, gold judge rises"
    assert reading(results, "hpsv2", "rocm-js").gold.direction == "undecided"


def test_without_a_gold_judge_the_reading_is_about_the_reward(finished):
    metrics = ["hpsv2", "aesthetic", "clipscore"]
    results = Results(make_config(metrics=metrics, snapshots={"prompts": 0}), finished[1])
    assert reading(results, "hpsv2", "rocm-none").phrase == "reward rises"
    assert "Gold judge" not in make(results).html


def test_the_page_is_one_file_that_loads_nothing(finished, tmp_path):
    render("report", "report", *finished, tmp_path / "report")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert text.count("data:image/png;base64,") == len(offered("figures", finished[0]))
    images = ("data:image/png;base64,", "data:image/jpeg;base64,")
    beside = [load for load in page.loads if not load.startswith((*images, "#"))]
    assert beside and all((finished[1] / file).is_file() for file in beside)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids)) and page.scripts == 1
    assert not re.search(r"@import|url\(|<script [^>]|fetch\(|XMLHttp|import\(", text)


def test_text_is_text_on_the_page(finished, tmp_path):
    """Of prompts, figures and claims, in elements and attributes."""
    config, root = finished
    shutil.copytree(root, tmp_path / "run")
    hostile = """<script>a(1)</script>&amp;"'{{ x }}"""
    prompts = [Prompt(p.id, f"{hostile} {p.id}", hostile) for p in Results(config, root).prompts]
    write_prompts(tmp_path / "run/prompts/validation.jsonl", prompts)
    for path in (tmp_path / "run/figures").iterdir():
        about = PngImagePlugin.PngInfo()
        about.add_text("Title", hostile)
        about.add_text("Description", hostile)
        Image.new("RGB", (4, 4)).save(path, pnginfo=about)
    ledger = json.loads((tmp_path / "run/claims.json").read_text())
    for claim in ledger["claims"]:
        for part in claim["parts"]:
            part |= {"label": hostile, "details": hostile}
    (tmp_path / "run/claims.json").write_text(json.dumps(ledger))
    html = make(Results(config, tmp_path / "run")).html
    assert Page(html).open == [] and html.count("<script") == 1
    parts = sum(len(claim["parts"]) for claim in ledger["claims"])
    shown = 6 + 3 * len(offered("figures", config)) + 2 * parts
    assert html.count(str(escape(hostile))) >= shown > 30


def test_the_page_shows_tables_captions_costs_and_provenance(finished):
    config, root = finished
    html = make(Results(config, root)).html
    assert "Table 1: Held-out scores" in html
    assert "Caption of gold_vs_kl, n = 16 ± 0." in html
    assert "6 of 6 cells trained" in html and "trained in 0.0333 CPU hours" in html
    manifest = json.loads((root / "cells/hpsv2/rocm-kl/seed-0/manifest.json").read_text())
    (row,) = [r for r in html.split("<tr>") if ">hpsv2/rocm-kl/seed-0</a>" in r.split("</th>")[0]]
    assert ">320<" in row and ">1,280<" in row and ">20<" in row and "0.05" in row
    assert "learning_rate" in html.split("Settings that all cells share")[1]
    (cell,) = re.findall(r'id="cell-hpsv2-rocm-kl-seed-0">.*?</details>', html, re.S)
    assert manifest["code"] in cell and manifest["commit"] in cell and "0.006 hours on cpu" in cell


def test_every_cell_and_base_shows_its_first_images_side_by_side(finished):
    """Cell n is painted 1 + 30 n in red, the base 0 (tests/synthetic.py)."""
    html = make(Results(*finished)).html
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="Images of ([^"]+)"', html)
    assert [name for _, name in found][0] == "base-consistency" and len(found) == 1 + 6
    for number, (data, _) in enumerate(found):
        with Image.open(io.BytesIO(base64.b64decode(data))) as strip:
            assert strip.width == 6 * strip.height
            red, green, blue = strip.getpixel((strip.width - 3, 3))
        shade = 0 if number == 0 else 1 + 30 * (number - 1)
        assert (red, green, blue) == pytest.approx((shade, 120, 60), abs=6)


def test_the_first_screen_is_the_ledger(finished):
    html = make(Results(*finished)).html
    answer = html.split('<section id="claims">')[1].split("</section>")[0]
    assert html.index(answer) < html.index('<section id="readings">')
    assert "The answer: 1 confirmed, 1 refuted, 1 not tested" in answer
    groups = answer.split("<h3>")[1:]
    assert [group.split("<")[0] for group in groups] == [
        *("What this reproduction asks", "The ROCM paper", "The RLCM paper")
    ]
    (line,) = re.findall(r'id="claim-Q1"><summary>.*?</summary>', answer, re.S)
    for told in (">confirmed<", "A control is beaten", "+0.50 SD [+0.40, +0.60]", "two; 2 parts"):
        assert told in line
    assert "one &lt;b&gt;" in answer  # the parts, and as text
    assert "1 claim needs what" in groups[2].replace("\n", " ") and "R4" in groups[2]


@pytest.mark.parametrize(("text", "said"), [("{", "is not a ledger"), (None, "does not exist")])
def test_a_page_without_a_ledger_is_an_error(tmp_path, text, said):
    config = make_config(partial=True)
    write_results(tmp_path, config, size=8)
    if text:
        (tmp_path / "claims.json").write_text(text)
    with pytest.raises(UserError, match=f"claims.json {said}"):
        make(Results(config, tmp_path))


def test_the_same_results_give_the_same_page(finished):
    assert make(Results(*finished)).html == make(Results(*finished)).html


def test_a_figure_that_was_not_drawn_is_an_error(tmp_path):
    config = make_config()
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    with pytest.raises(UserError, match="figures/gold_vs_reward.png does not exist"):
        make(Results(config, tmp_path))


def test_partial_lists_the_gaps_and_marks_them_in_the_readings(tmp_path):
    write_results(tmp_path, make_config(), EFFECTS, size=8)
    write_claims(tmp_path)
    missing = "samples/hpsv2/rocm-kl/seed-0/validation/steps-4/scores.csv"
    (tmp_path / missing).unlink()
    (tmp_path / "cells/hpsv2/rocm-kl/seed-0/manifest.json").unlink()
    results = Results(make_config(partial=True), tmp_path)
    assert reading(results, "hpsv2", "rocm-kl").phrase == "missing"
    html = make(results).html
    assert f"<li><code>{missing}</code></li>" in html
    assert "5 of 6 cells trained" in html and "2 artefacts are missing" in html


def test_a_steered_beta_shows_the_value_it_came_to(tmp_path):
    methods = {"rocm-none": {}, "rocm-kl": {"beta": {"target": 0.01, "start": 1.0}}}
    config = make_config(methods=methods, partial=True)
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    html = make(Results(config, tmp_path)).html
    assert html.count("<td>0.07</td>") == html.count("<dd>0.07 (target 0.01; start 1.0)</dd>") == 2


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1.0e-4, 1.0e-3], "0.0001, 0.001; iterations 4; at the edge of what was tried"),
        ([1.0e-4, 1.0e-3, 1.0e-2], "0.0001, 0.001, 0.01; iterations 4"),
    ],
)
def test_a_searched_setting_shows_what_was_chosen(tmp_path, values, told):
    tried = {"search": values, "iterations": 4}
    config = make_config(methods={"rocm-none": {"learning_rate": tried}}, partial=True)
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    for file in tmp_path.glob("cells/hpsv2/rocm-none/seed-*/manifest.json"):
        about = json.loads(file.read_text())
        file.write_text(json.dumps(about | {"chosen": {"learning_rate": 1e-3}, "beta": 0.0}))
    html = make(Results(config, tmp_path)).html
    assert "<td>0.001</td>" in html and "(0)" not in html
    assert f"<dd>0.001 (search {told})</dd>" in html


def test_algorithms_with_settings_of_their_own_share_a_page(tmp_path):
    config = make_config(methods={"rocm-none": {}, "rlcm": {}}, partial=True)
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    ppo, direct = (
        {cell.method: set(cell.settings.to_dict()) for cell in make_grid(config)}[method]
        for method in ("rlcm", "rocm-none")
    )
    assert ppo - direct  # settings that first-order training does not have
    html = make(Results(config, tmp_path)).html
    cells = re.findall(r'<tr><th><a href="#cell-.*?</tr>', html, re.S)
    assert len(cells) == 4
    for cell in cells:  # in the table of all cells; below it, each lists its own settings only
        foreign = ppo - direct if "rocm-none" in cell else direct - ppo
        assert cell.count("<td>–") == len(foreign)


def test_accepted_code_is_told_beside_the_code_of_its_cell(tmp_path):
    config = make_config(partial=True)
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    path = tmp_path / "cells/hpsv2/rocm-kl/seed-0/manifest.json"
    change = {"by": "A. Student", "at": "2026-11-28", "commit": "beef", "code": "n" * 8}
    accepted = [change | {"instead_of": "o" * 8}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accepted": accepted}))
    html = make(Results(config, tmp_path)).html
    (line,) = re.findall(r"<dt>accepted</dt><dd>(.*?)</dd>", html, re.S)
    told = "A. Student on 2026-11-28 at commit <code>beef</code>: <code>nnnnnnnn</code> instead of"
    assert f"code accepted by {told} <code>oooooooo</code>" == " ".join(line.split())
    cell = re.findall(r'id="cell-hpsv2-rocm-kl-seed-0">.*?</details>', html, re.S)[0]
    assert line in cell
    accepted = [change | {"by": "B. Before"}, *accepted]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accepted": accepted}))
    html = make(Results(config, tmp_path)).html
    (line,) = re.findall(r"<dt>accepted</dt><dd>(.*?)</dd>", html, re.S)
    assert " ".join(line.split()).startswith("2 times; last: code accepted by A. Student")


def test_a_manifest_without_what_the_page_shows_is_an_error(tmp_path):
    config = make_config(partial=True)
    write_results(tmp_path, config, size=8)
    write_claims(tmp_path)
    path = tmp_path / "cells/hpsv2/rocm-kl/seed-0/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["nfe"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="rocm-kl/seed-0/manifest.json has no nfe"):
        make(Results(config, tmp_path))


def test_what_they_claimed_stands_beside_what_was_found_and_where_it_is_shown(finished):
    html = make(Results(*finished)).html
    (claim,) = re.findall(r'<details class="claim" id="claim-Q1">.*?</dl>', html, re.S)
    told = " ".join(re.sub(r"<[^>]+>", " ", claim).split())
    assert "They claim it in ROCM paper, section 4.1, table 1 Their number unknown" in told
    assert "We found confirmed, one training: +0.50 SD [+0.40, +0.60] (two); 2 parts" in told
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', claim)
    assert links == [
        ("drawing-table1", "Table 1"),
        ("drawing-gold_vs_reward", "Picture gold_vs_reward"),
    ]
    assert ">one training</span>" in claim.split("</summary>")[0]  # on its face
    assert html.index(LIMIT.split(": ")[1]) < html.index('id="claims"')


def test_the_header_has_date_commit_and_configuration(finished):
    config, root = finished
    html = make(Results(config, root)).html
    header = html.split("<header>")[1].split("</header>")[0]
    assert re.search(r"20\d\d-\d\d-\d\d", header) and "<code>abcdef0123</code>" in header
    assert 'href="#configuration">synthetic</a>' in header
    (text,) = re.findall(r'<details id="configuration">.*?<pre>(.*?)</pre>', html, re.S)
    assert json.loads(unescape(text))["methods"]["rocm-kl"] == {"beta": 0.05}


def test_plots_come_first_and_images_last(finished):
    html = make(Results(*finished)).html
    order = re.findall(r'<(?:section|figure) id="([^"]+)"', html)
    assert order[:4] == ["claims", "plots", "drawing-gold_vs_reward", "drawing-training"]
    samples = order.index("samples")
    assert {"drawing-figure1", "drawing-figure2", "drawing-figure6"} <= set(order[samples:])
    assert "drawing-figure5" in order[:samples] and order.index("cells") > samples


def test_files_beside_the_page_are_linked(finished, tmp_path):
    config, root = finished
    shutil.copytree(root, tmp_path / "run")
    lora = "cells/hpsv2/rocm-kl/seed-0/lora.safetensors"
    for file in (lora, "figures/training.pdf", "figures/training.csv", "tables/table1.csv"):
        (tmp_path / "run" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / file).touch()
    html = make(Results(config, tmp_path / "run")).html
    for file, name in (
        (lora, "LoRA"),
        ("figures/training.pdf", "PDF"),
        ("figures/training.csv", "CSV"),
        ("figures/training.png", "PNG"),
        ("tables/table1.csv", "CSV"),
    ):
        assert f'<a href="{file}">{name}</a>' in html
    assert "cells/hpsv2/rocm-none/seed-0/lora.safetensors" not in html


def test_the_page_of_terms_is_up_to_date():
    assert glossary.PAGE.read_text(encoding="utf-8") == glossary.page()


def test_terms_are_explained_where_they_stand_and_in_one_list(finished):
    html = make(Results(*finished)).html
    page = Page(html)
    assert {anchor(term) for term in TERMS} <= set(page.ids)
    tips = re.findall(
        r'<a class="term" href="#([^"]+)" aria-describedby="([^"]+)" data-tip="', html
    )
    assert len({at for at, _ in tips}) > 10 and all(at == described for at, described in tips)
    heads, labels = set(), set()
    for table in re.findall(r"<table>.*?</table>", html, re.S):
        head, body = (re.findall(r'class="term" href="#(\S+)"', t) for t in table.split("</thead>"))
        assert len({*head, *body}) == len(head + body)  # once in a table
        heads, labels = heads | {*head}, labels | {*body}
    named = ("trained reward", "gold judge", "held-out", "interval", "divergence", "d²", "NFE")
    assert heads >= {anchor(term) for term in named} and anchor("ROCM") in labels


def test_what_is_published_is_whole_and_links_to_nothing_that_stays(finished, tmp_path):
    config, root = finished
    run, published = tmp_path / "run", tmp_path / "docs"
    shutil.copytree(root, run)
    (run / "cells/hpsv2/rocm-kl/seed-0/lora.safetensors").touch()
    (run / "claims.md").touch()
    drawn = [(kind, n) for kind in ("table", "figure") for n in offered(f"{kind}s", config)]
    files = [file for drawing in drawn for file in Layout(run).rendered(*drawing)]
    for file in files[1:]:
        file.parent.mkdir(exist_ok=True)
        file.exists() or file.touch()
    with pytest.raises(UserError, match=f"{files[0].name} does not exist: run `snakemake report`"):
        publish(Results(config, run), published)
    assert not published.exists()
    files[0].touch()
    publish(Results(config, run), published)
    links = {load for load in Page((published / "report.html").read_text()).loads}
    beside = {link for link in links if not link.startswith(("data:", "#"))}
    copied = {p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file()}
    assert beside | {"claims.json", "claims.md", "report.html"} == copied
    assert {file.relative_to(run).as_posix() for file in files} == beside


# --- in a browser

in_a_browser = pytest.mark.skipif(
    "ROCM_NEEDS_BROWSER" not in os.environ and not any(map(shutil.which, simulate.BROWSERS)),
    reason="no Chromium is installed",
)


@pytest.fixture(scope="module")
def browser():
    with simulate.open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(finished):
    make(Results(*finished)).save(finished[1] / "report")
    return (finished[1] / "report.html").as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page as some device would; closing checks that it asked for nothing else."""
    contexts, wrong, asked = [], [], set()

    def opened(width=1280, **more):
        screen = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**screen, **more)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.partition("#")[0]))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong and {url for url in asked if not url.startswith("data:")} == {address}


def luminance(page, selector, name):
    """Relative luminance of a colour of an element (WCAG 2.2)."""
    got = page.eval_on_selector(selector, "(e, name) => getComputedStyle(e)[name]", name)
    channels = [int(v) / 255 for v in re.findall(r"\d+", got)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The ratio of two luminances (WCAG 2.2)."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk_by_day_and_by_night(open_page, width, scheme):
    page = open_page(width, color_scheme=scheme)
    page.eval_on_selector_all("details", "all => all.forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = luminance(page, "body", "backgroundColor")
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("body", ".soft", "nav a", ".fails", ".scope"):
        ink = luminance(page, selector, "color")
        assert contrast(ink, paper) >= 4.5, selector
    for kind in ("confirmed", "refuted", "no-difference", "not-decidable", "not-tested"):
        page.eval_on_selector(".verdict", "(e, kind) => e.className = 'verdict ' + kind", kind)
        ground = page.eval_on_selector(".verdict", "e => getComputedStyle(e).backgroundColor")
        clear = ground == "rgba(0, 0, 0, 0)"
        behind = paper if clear else luminance(page, ".verdict", "backgroundColor")
        assert contrast(luminance(page, ".verdict", "color"), behind) >= 4.5, kind
    wide = page.locator("#cells .scroll").first
    assert wide.evaluate("e => e.scrollWidth > e.clientWidth") == (width == 390)
    page.wait_for_function(
        "w => document.querySelector('#cells .scroll').hasAttribute('data-wider') === w",
        arg=width == 390,
    )
    hint = wide.evaluate("e => getComputedStyle(e, '::before').content")
    assert ("Scroll sideways" in hint) == (width == 390)
    # The first column stays, and leaves room for the others however long a name is.
    page.eval_on_selector("#cells tbody th a", "(e, name) => e.textContent = name", "long-name" * 9)
    wide.evaluate("e => e.scrollLeft = e.scrollWidth")
    first, last = (
        page.locator(f"#cells tbody tr:first-child > :{one}-child").bounding_box()
        for one in ("first", "last")
    )
    box = wide.bounding_box()
    assert first["x"] + first["width"] <= last["x"]
    assert last["x"] + last["width"] <= box["x"] + box["width"] + 1 or width != 390


@in_a_browser
def test_without_scripts_everything_can_be_read(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("button, input, dialog").count() == 0
    assert page.locator("#claim-Q1 .verdict").is_visible()
    assert page.locator("#samples .strip").first.is_visible()
    page.locator("#claim-Q1 summary").click()
    assert page.locator("#claim-Q1 dl").is_visible()
    term = page.locator(".term").first

    def shown():
        return term.evaluate("e => getComputedStyle(e, '::after').content").strip('"')

    assert shown() == "none"
    term.hover()
    assert shown() in TERMS.values()
    page.mouse.move(0, 0)
    assert shown() == "none"
    page.keyboard.press("Tab")  # from now on focus is the keyboard's
    term.focus()
    assert shown() in TERMS.values()
    assert page.locator("#readings th a.term").first.get_attribute("href") == "#term-trained-reward"


@in_a_browser
def test_a_figure_is_enlarged_and_closed_by_mouse_and_keyboard(open_page):
    page = open_page()
    link = page.locator("#drawing-training a.enlarge")
    link.click()
    assert page.locator("dialog[open] img").get_attribute("src").startswith("data:image/png")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert link.evaluate("e => e === document.activeElement")  # the reader is where she was
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1
    page.locator("dialog button").click()
    assert page.locator("dialog[open]").count() == 0


@in_a_browser
def test_tables_are_sorted_by_their_numbers(open_page):
    page = open_page()
    table = page.locator("#readings table")
    head = table.locator("thead th", has_text="Trained reward")

    def column():
        body = table.locator("tbody").first
        texts = body.locator("tr:not(.block)").evaluate_all(
            "all => all.map(r => r.cells[2].innerText)"
        )
        return [float(text.split()[1].replace("−", "-")) for text in texts]

    assert len(set(column())) > 2
    page.keyboard.press("Tab")  # from now on focus is the keyboard's
    head.locator("button").focus()
    tip = head.locator(".term").evaluate("e => getComputedStyle(e, '::after').content")
    assert tip.strip('"') == TERMS["trained reward"] and head.locator("a[href]").count() == 0
    page.keyboard.press("Enter")
    assert column() == sorted(column(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert column() == sorted(column()) and head.get_attribute("aria-sort") == "ascending"
    assert table.locator("tbody").first.locator("tr").first.get_attribute("class") == "block"


@in_a_browser
def test_a_slider_lies_between_base_and_trained_images(open_page):
    """The base is painted 0 in red, the last model more than 100 (tests/synthetic.py)."""
    page = open_page()
    pair = page.locator(".pair").last
    pair.evaluate("e => e.scrollIntoView({block: 'center'})")
    for image in pair.locator("img").all():
        image.evaluate("e => e.decode()")
    slider = pair.locator("input[type=range]")
    box = pair.locator(".over").bounding_box()
    side = box["width"] / 6

    def red(image, share):
        """Of the pixel at a share of the width of one of the six images."""
        at = {"x": box["x"] + side * (image + share), "y": box["y"] + side / 2}
        shot = page.screenshot(clip=at | {"width": 1, "height": 1})
        with Image.open(io.BytesIO(shot)) as pixel:
            return pixel.convert("RGB").getpixel((0, 0))[0]

    for image in (0, 5):  # each image is cut in the middle
        assert red(image, 0.3) < 20 and red(image, 0.7) > 80
    slider.focus()
    page.keyboard.press("Home")
    assert red(0, 0.3) > 80 and slider.get_attribute("aria-valuetext") == "0 % base"
    page.keyboard.press("End")
    assert red(5, 0.95) < 20


@in_a_browser
def test_a_link_opens_what_is_folded_and_terms_answer_to_the_keyboard(open_page):
    page = open_page(390)
    page.evaluate("location.hash = '#cell-hpsv2-rocm-kl-seed-0'")
    page.wait_for_selector("#cell-hpsv2-rocm-kl-seed-0[open]")
    term = page.locator("#claims .term").first
    page.keyboard.press("Tab")  # from now on focus is the keyboard's
    term.focus()
    box = term.evaluate("e => getComputedStyle(e, '::after').position")
    assert box == "fixed"
    page.keyboard.press("Escape")
    assert term.evaluate("e => getComputedStyle(e, '::after').content") in ("none", "normal")
    page.keyboard.press("Tab")
    term.focus()
    page.keyboard.press("Enter")  # and touch: to the list of terms
    assert page.evaluate("location.hash").startswith("#term-")
