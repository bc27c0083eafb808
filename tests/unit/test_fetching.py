"""Weights are fetched whole, once, from where the table says, and stay what the lock recorded."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
from checkout import ROOT
from fake_hub import FakeHub, running_hub

from rocm_core.errors import UserError
from rocm_core.grid import load_config, needed
from rocm_core.provenance import files, folder_digest
from rocm_core.weights import (
    catalogue,
    check_weights,
    describe,
    downloads,
    fetch,
    fetching,
    record,
    table,
    weights_digest,
)

BASE = "weights/dreamshaper-7"
REVISION = table()[f"{BASE}/model_index.json"].revision
SMALL, LARGE = f"{BASE}/model_index.json", f"{BASE}/unet/diffusion_pytorch_model.safetensors"
BLIP = "weights/blip-itm-large-coco"
WEIGHTS = os.urandom(24_000_000)  # more than two of the client's chunks


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with running_hub() as hub:
        for path in (SMALL, LARGE):
            content = WEIGHTS if path == LARGE else b"{}"
            hub.put("Lykon/dreamshaper-7", REVISION, path.removeprefix(f"{BASE}/"), content)
        yield hub


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """The folder that weights/ and weights.lock are in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_that_the_table_lacks_is_named():
    with pytest.raises(UserError, match="the table of weights: 'weights/typo' is unknown"):
        fetch("weights/typo")


def lock() -> dict:
    return json.loads(Path("weights.lock").read_text())


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in error.value.args[0]
    return str(error.value)


def test_a_fetched_file_is_whole_and_recorded(hub: FakeHub):
    for path in (SMALL, LARGE):
        fetch(path, hub.url)
    assert Path(SMALL).read_bytes() == b"{}" and Path(LARGE).read_bytes() == WEIGHTS
    assert lock()[LARGE] == {
        "repo": "Lykon/dreamshaper-7",
        "revision": REVISION,
        "size": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert all(f"/resolve/{REVISION}/" in at or "/storage/" in at for _, at, _ in hub.requests)
    asked = len(hub.requests)
    fetch(LARGE, hub.url)
    assert len(hub.requests) == asked


def test_a_broken_connection_goes_on_where_it_broke(hub: FakeHub):
    hub.cut = 1
    fetch(LARGE, hub.url)
    assert Path(LARGE).read_bytes() == WEIGHTS
    first, second = hub.sent("/storage/")
    assert first is None and int(second.removeprefix("bytes=").rstrip("-")) > 0


def test_a_killed_fetch_leaves_no_file_and_the_next_one_goes_on(hub: FakeHub):
    hub.hold = True
    script = [sys.executable, str(ROOT / "workflow/scripts/fetch_weights.py"), LARGE]
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*script, "--endpoint", hub.url], env=environment) as killed:
        deadline = time.monotonic() + 60
        while not sum(p.stat().st_size for p in Path("weights").rglob("diffusion*")):
            assert time.monotonic() < deadline and killed.poll() is None
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    assert not Path(LARGE).exists() and not Path("weights.lock").exists()
    hub.hold = False
    fetch(LARGE, hub.url)
    assert Path(LARGE).read_bytes() == WEIGHTS
    first, second = hub.sent("/storage/")
    assert first is None and int(second.removeprefix("bytes=").rstrip("-")) > 0
    check_weights(LARGE, full=True)


def test_who_waits_for_another_fetch_of_a_file_says_so(hub: FakeHub, monkeypatch, capfd):
    monkeypatch.setattr(fetching, "QUIET_SECONDS", 0.05)
    said = ""
    with ThreadPoolExecutor(1) as pool:
        with fetching._exclusive(LARGE):
            waiter = pool.submit(fetch, LARGE, hub.url)
            while f"waiting for another process that works on {LARGE}" not in said:
                assert not waiter.done()
                time.sleep(0.01)
                said += capfd.readouterr().err
        waiter.result()
    assert Path(LARGE).read_bytes() == WEIGHTS


def test_another_file_than_the_pinned_one_is_refused(hub: FakeHub):
    path = "weights/HPSv2/HPS_v2.1_compressed.pt"
    hub.put("xswu/HPSv2", table()[path].revision, "HPS_v2.1_compressed.pt", b"other" * 1000)
    message = refusal(fetch, path, hub.url)
    assert path in message and "is not c57a38fb4a2f… of rocm_core/weights/table.yaml" in message
    assert not Path(path).exists() and not Path("weights.lock").exists()


def test_the_newest_revision_is_recorded_and_kept(hub: FakeHub, monkeypatch):
    free = {p: replace(file, revision=None) for p, file in table().items() if p.startswith(BLIP)}
    for module in (fetching, catalogue):
        monkeypatch.setattr(module, "table", lambda: free)
    for revision in ("1" * 40, "2" * 40):
        for name in ("config.json", "vocab.txt"):
            hub.put("Salesforce/blip-itm-large-coco", revision, name, revision[:3].encode())
        fetch(f"{BLIP}/{'config.json' if revision[0] == '1' else 'vocab.txt'}", hub.url)
    assert Path(f"{BLIP}/vocab.txt").read_text() == "111"
    assert {entry["revision"] for entry in lock().values()} == {"1" * 40}


def test_other_content_than_the_locked_is_refused(hub: FakeHub):
    fetch(LARGE, hub.url)
    Path(LARGE).unlink()
    hub.put("Lykon/dreamshaper-7", REVISION, LARGE.removeprefix(f"{BASE}/"), WEIGHTS[::-1])
    assert "of weights.lock" in refusal(fetch, LARGE, hub.url)
    assert not Path(LARGE).exists()


def leave_half(hub: FakeHub, path: str) -> None:
    """Fetch until the connection breaks, and give up there."""
    hub.cut = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "ATTEMPTS", 0)
        assert "can't be fetched" in refusal(fetch, path, hub.url)


@pytest.mark.parametrize("length", ["as announced", "unknown", "another"])
def test_the_page_of_a_captive_portal_is_never_continued(hub: FakeHub, length: str):
    hub.portal = ("GET",)
    if length == "as announced":
        hub.page = hub.page.ljust(len(WEIGHTS))
    if length == "unknown":
        hub.headers = {"X-Linked-Size": ""}
    if length == "another":
        message = refusal(fetch, LARGE, hub.url)
        assert "24,000,000 bytes, but 4,300 of text/html come: a captive portal" in message
    else:
        leave_half(hub, LARGE)
    assert not Path("weights.lock").exists()
    hub.portal, hub.headers = (), {}
    fetch(LARGE, hub.url)
    assert Path(LARGE).read_bytes() == WEIGHTS
    assert hub.sent("/storage/")[-1] is None


@pytest.mark.parametrize("path", [SMALL, LARGE])
def test_a_portal_that_answers_everything_is_refused(hub: FakeHub, path: str):
    hub.portal = ("GET", "HEAD")
    assert "did not answer as a hub does: a captive portal" in refusal(fetch, path, hub.url)
    assert not Path(path).exists() and not Path("weights.lock").exists()


def test_bytes_are_continued_only_if_they_are_of_the_same_object(hub: FakeHub):
    leave_half(hub, LARGE)
    hub.storage_tag = '"other"'
    fetch(LARGE, hub.url)
    *_, asked = hub.sent("/storage/")
    assert asked and Path(LARGE).read_bytes() == WEIGHTS  # asked for the rest, got all of it
    partial = next(Path("weights/.partial").glob("diffusion*.lock"), Path("none"))
    assert not [p for p in Path("weights/.partial").glob("*diffusion*") if p.stat().st_size], (
        partial
    )


@pytest.mark.parametrize("tag", ['W/"weak"', ""])
def test_bytes_without_a_strong_tag_are_fetched_again(hub: FakeHub, tag: str):
    hub.storage_tag = tag
    leave_half(hub, LARGE)
    fetch(LARGE, hub.url)
    assert hub.sent("/storage/") == [None, None] and Path(LARGE).read_bytes() == WEIGHTS


def test_bytes_that_lay_there_before_are_not_taken_over(hub: FakeHub):
    leave_half(hub, LARGE)
    (half,) = [p for p in Path("weights/.partial").glob("diffusion*") if p.stat().st_size]
    half.write_bytes(hub.page)
    next(Path("weights/.partial").glob("etag-*")).unlink()
    fetch(LARGE, hub.url)
    assert Path(LARGE).read_bytes() == WEIGHTS


def test_changed_bytes_cost_a_fetch_but_are_not_recorded(hub: FakeHub):
    leave_half(hub, LARGE)
    (half,) = [p for p in Path("weights/.partial").glob("diffusion*") if p.stat().st_size]
    half.write_bytes(hub.page)
    assert "of the hub: fetch it again" in refusal(fetch, LARGE, hub.url)
    assert not Path(LARGE).exists() and not Path("weights.lock").exists()
    fetch(LARGE, hub.url)
    assert Path(LARGE).read_bytes() == WEIGHTS


def test_a_small_file_must_have_the_hubs_git_hash(hub: FakeHub):
    hub.headers = {"ETag": f'"{"5" * 40}"'}
    assert f"is not {'5' * 12}… of the hub" in refusal(fetch, SMALL, hub.url)
    hub.headers = {"ETag": '"no hash"'}
    assert "did not answer as a hub does" in refusal(fetch, SMALL, hub.url)
    assert not Path(SMALL).exists() and not Path("weights.lock").exists()


def test_the_hubs_header_never_changes_a_pinned_revision(hub: FakeHub):
    hub.headers = {"X-Repo-Commit": "f" * 40}
    assert f"at revision {REVISION[:12]}" in refusal(fetch, SMALL, hub.url)
    assert not Path(SMALL).exists()
    hub.headers = {"X-Repo-Commit": ""}  # as some mirrors answer
    fetch(SMALL, hub.url)
    assert lock()[SMALL]["revision"] == REVISION


def test_a_file_has_at_most_the_size_it_may_have(hub: FakeHub, monkeypatch):
    hub.headers = {"X-Linked-Size": "99000000000"}
    assert "more than the 4,300,000,000 it may have" in refusal(fetch, LARGE, hub.url)
    hub.headers = {"Location": f"{hub.storage}/{hashlib.sha256(WEIGHTS).hexdigest()}"}
    hub.headers |= {"X-Linked-ETag": f'"{"5" * 64}"', "X-Linked-Size": ""}
    monkeypatch.setattr(fetching, "_SMALL", 2_000_000)
    hub.put("Lykon/dreamshaper-7", REVISION, "model_index.json", b"{}" * 1000)
    assert "sends more than the 2,000,000 bytes that" in refusal(fetch, SMALL, hub.url)
    assert sum(p.stat().st_size for p in Path("weights").rglob("model_index*")) == 0


def test_the_token_goes_to_the_hub_over_https_only(hub: FakeHub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for path in (SMALL, LARGE):
        fetch(path, hub.url)
    assert not hub.tokens
    addresses = ("https://huggingface.co/x", "http://huggingface.co/x", "https://hf.co.evil.org/x")
    addresses += ("https://huggingface.co.evil.org/x", "https://evil.org/huggingface.co")
    addresses += ("https://huggingface.co@evil.org/x", "https://huggingface.co:8443/x")
    assert [downloads.is_hub(address) for address in addresses] == [True] + [False] * 6
    for module in (fetching, downloads):
        monkeypatch.setattr(module, "is_hub", lambda url: url.startswith(hub.url))
    for path in (SMALL, LARGE):
        Path(path).unlink()
        fetch(path, hub.url)
    assert hub.tokens and all(at.startswith(hub.url.removeprefix("http://")) for at in hub.tokens)


def test_without_a_network_one_sentence_says_what_to_do(hub: FakeHub, monkeypatch):
    message = refusal(fetch, LARGE, "http://127.0.0.1:9")
    assert LARGE in message and "where there is a network" in message and "mirror" in message
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "where there is a network" in refusal(fetch, LARGE, hub.url)


def test_what_the_hub_does_not_have_is_named(hub: FakeHub):
    assert "Lykon/dreamshaper-7 has no vae/config.json" in refusal(
        fetch, f"{BASE}/vae/config.json", hub.url
    )
    hub.put("xswu/HPSv2", "0" * 40, "HPS_v2_compressed.pt", b"")
    assert "has no HPS_v2_compressed.pt at revision 6974" in refusal(
        fetch, "weights/HPSv2.0/HPS_v2_compressed.pt", hub.url
    )
    assert "PickScore_v1 is closed or gone" in refusal(
        fetch, "weights/PickScore_v1/config.json", hub.url
    )


def test_a_mirror_is_copied_from_and_held_to_the_same_hashes(place: Path):
    mirror = place / "mirror"
    for path in (LARGE, "weights/HPSv2/HPS_v2.1_compressed.pt"):
        (mirror / path.removeprefix("weights/")).parent.mkdir(parents=True)
        (mirror / path.removeprefix("weights/")).write_bytes(WEIGHTS)
    fetch(LARGE, mirror=mirror)
    assert Path(LARGE).read_bytes() == WEIGHTS and LARGE in lock()
    assert "c57a38fb4a2f" in refusal(fetch, "weights/HPSv2/HPS_v2.1_compressed.pt", None, mirror)
    assert f"the mirror lacks {mirror}" in refusal(fetch, SMALL, None, mirror)


def put_base() -> None:
    for path in table():
        if path.startswith(f"{BASE}/"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(path)


def test_files_put_there_by_hand_are_used_once_recorded():
    put_base()
    assert f"--record {BASE}/model_index.json" in refusal(check_weights, BASE)
    record([BASE])
    check_weights(BASE)
    assert lock()[SMALL]["revision"] is None  # nobody can tell
    Path(LARGE).write_text("other")
    assert f"{LARGE} is not the file of weights.lock" in refusal(record, [LARGE])
    Path("weights/HPSv2").mkdir()
    Path("weights/HPSv2/HPS_v2.1_compressed.pt").write_text("other")
    assert "is not the file of rocm_core/weights/table.yaml" in refusal(record, ["weights/HPSv2"])


def test_recorded_weights_are_hashed_again_only_when_touched(monkeypatch):
    put_base()
    record([BASE])
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, k: (hashed.append(f.name), real(f, k))[1])
    check_weights(BASE)
    assert not hashed
    os.utime(LARGE, ns=(1, 1))
    check_weights(BASE)
    check_weights(BASE)
    assert [Path(name).as_posix() for name in hashed] == [LARGE]
    stamp = os.stat(SMALL)
    Path(SMALL).write_text(SMALL[::-1])
    os.utime(SMALL, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    check_weights(BASE)  # of the same size and time: only a full check can tell
    files._sha256.cache_clear()
    assert f"{SMALL} (" in refusal(check_weights, BASE, True)


def test_a_missing_or_unknown_file_is_named():
    put_base()
    record([BASE])
    Path(BASE, "unet", "pytorch_model.bin").write_text("")
    assert "unet/pytorch_model.bin is not listed in weights.lock" in refusal(check_weights, BASE)
    Path(LARGE).unlink()
    message = refusal(check_weights, BASE)
    assert message.startswith(f"{LARGE} is missing") and "snakemake weights" in message


def test_what_a_job_is_told_of_its_weights_does_not_change_when_they_are_fetched(hub: FakeHub):
    before = weights_digest(BASE)
    fetch(LARGE, hub.url)
    assert weights_digest(BASE) == before != weights_digest("weights/LCM_Dreamshaper_v7")
    assert weights_digest("elsewhere") == folder_digest("elsewhere")


def test_a_folders_digest_is_read_from_the_lock(monkeypatch):
    put_base()
    before = folder_digest(BASE)
    record([BASE])
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert folder_digest(BASE) == before


def test_all_inputs_of_the_papers_configuration_are_in_the_table():
    config = load_config(ROOT / "config/paper.yaml")
    paths = [policy.model for policy in config.policies.values()]
    paths += config.scorers.values()
    for source in (p.source for p in config.prompts.values()):
        for part in source.values() if isinstance(source, dict) else [source]:
            paths += part if isinstance(part, list | tuple) else [part]
    for path in filter(None, paths):
        assert any(f == path or f.startswith(f"{path}/") for f in needed(config)), path


def test_the_list_says_what_is_to_be_fetched_and_how_much():
    put_base()
    text = describe([SMALL, LARGE, "weights/HPSv2/HPS_v2.1_compressed.pt", f"{BLIP}/config.json"])
    lines = text.splitlines()
    assert "here" in lines[1] and "CreativeML Open RAIL-M" in lines[2] and "1.97 GB" in lines[3]
    assert lines[-1] == "to fetch: 2 files, 1.97 GB and 1 small ones"
    assert describe([f"{BLIP}/model.safetensors"]).endswith("to fetch: 1 files, about 1.88 GB")


def test_the_size_of_every_large_file_is_known_or_reckoned():
    for path, file in table().items():
        assert file.size or file.about or not path.endswith((".safetensors", ".pt", ".pth", ".bin"))
    paper = describe(needed(load_config(ROOT / "config/paper.yaml"))).splitlines()[-1]
    gigabytes = re.search(r"to fetch: \d+ files, about ([\d.]+) GB and", paper)
    documented = re.search(r"(\d+) GB of weights", (ROOT / "docs/reproducing.md").read_text())
    assert gigabytes and documented and round(float(gigabytes[1])) == int(documented[1])
