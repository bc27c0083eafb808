"""The server: what it gives away (little), what it refuses, and when it says yes."""

import http.client
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from shapes_study import make_study

from rocm_core.errors import UserError
from rocm_core.study import votes
from rocm_core.study.design import QUESTIONS, TIE
from rocm_core.study.server import StudyServer
from rocm_core.study.votes import VoteBook, read_votes

PAIRS = 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"), PAIRS)


@pytest.fixture
def server(study):
    folder, _ = study
    (folder / "votes.jsonl").unlink(missing_ok=True)
    with StudyServer(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def post(server, body, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, content, _ = ask(server, "POST", "/votes", body, {"Content-Type": kind})
    return status, json.loads(content)


def session(server, rater=0):
    status, content, _ = ask(server, "GET", f"/session?rater={server.raters[rater]}")
    assert status == 200
    return json.loads(content)


def make_vote(server, rater=0, index=0, side=1):
    """A vote for the left (1) or right (2) image, or none (0), in a rater's pair."""
    shown = session(server, rater)["order"][index]
    answer = shown[side] if side else TIE
    return {
        "rater": server.raters[rater],
        "pair": shown[0],
        "answers": dict.fromkeys(QUESTIONS, answer),
    }


def stored(study):
    return read_votes(study[0] / "votes.jsonl")


def test_a_vote_is_stored_with_what_was_where_and_the_session_resumes_after_it(server, study):
    assert session(server)["answered"] == [] and len(session(server)["order"]) == PAIRS
    vote = make_vote(server, index=2)
    assert post(server, vote) == (200, {"new": True})
    (line,) = stored(study)
    assert (line.rater, line.pair, line.answers) == tuple(vote.values())
    assert [line.pair, line.left, line.right] == session(server)["order"][2]
    assert session(server)["answered"] == [vote["pair"]] and session(server, 1)["answered"] == []


def test_a_vote_sent_twice_counts_once_even_at_once(server, study):
    vote = make_vote(server)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(server, vote), range(32)))
    assert {status for status, _ in answers} == {200}
    assert sum(answer["new"] for _, answer in answers) == len(stored(study)) == 1
    status, answer = post(server, make_vote(server, side=2))
    assert (status, answer["error"]) == (409, "This pair has been answered before.")
    assert len(stored(study)) == 1


def test_many_raters_vote_at_once_and_every_line_is_whole(server, study):
    ballots = [make_vote(server, r, i, side=r % 3) for r in range(4) for i in range(PAIRS)]
    with ThreadPoolExecutor(8) as pool:
        assert {post(server, vote)[0] for vote in pool.map(lambda v: v, ballots)} == {200}
    assert len(stored(study)) == len(ballots)


def forge(**changes):
    return lambda vote: {**vote, **changes}


FOREIGN = "0" * 32
FORGERIES = {
    "rater": (403, forge(rater="0" * 16)),
    "no rater": (403, forge(rater="")),
    "pair": (404, forge(pair=FOREIGN)),
    "image": (422, lambda v: {**v, "answers": {**v["answers"], "appeal": FOREIGN}}),
    "word": (422, lambda v: {**v, "answers": {**v["answers"], "appeal": "left"}}),
    "question missing": (422, lambda v: {**v, "answers": {"appeal": TIE}}),
    "question added": (422, lambda v: {**v, "answers": {**v["answers"], "more": TIE}}),
    "key added": (400, forge(more=1)),
    "key missing": (400, lambda v: {"rater": v["rater"], "pair": v["pair"]}),
    "number": (400, forge(pair=1)),
    "null answer": (400, lambda v: {**v, "answers": {**v["answers"], "appeal": None}}),
    "answers a list": (400, forge(answers=[])),
    "list": (400, lambda v: [v]),
    "not JSON": (400, lambda v: b"rater=1"),
    "not UTF-8": (400, lambda v: b'{"rater": "\xff"}'),
    "nested": (400, lambda v: b"[" * 4000),
    "key twice": (400, lambda v: json.dumps(v)[:-1].encode() + b', "rater": "x"}'),
    "nothing": (400, lambda v: b""),
    "too long": (413, forge(pair="x" * 5000)),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_vote_is_refused_in_a_sentence_and_not_stored(case, server, study):
    expected, change = FORGERIES[case]
    status, answer = post(server, change(make_vote(server)))
    assert status == expected and answer["error"].endswith(".") and "\n" not in answer["error"]
    assert not stored(study)
    assert post(server, make_vote(server))[0] == 200  # and the server is well


def test_another_pairs_image_is_no_answer(server, study):
    one, other = make_vote(server, index=0), make_vote(server, index=1)
    assert post(server, {**one, "answers": other["answers"]})[0] == 422
    assert not stored(study)


def test_requests_that_are_no_votes_are_refused(server, study):
    body = json.dumps(make_vote(server)).encode()
    assert post(server, body, kind="text/plain")[0] == 415
    assert ask(server, "POST", "/vote", body)[0] == 404
    assert ask(server, "PUT", "/votes", body)[0] == 501
    assert ask(server, "GET", "/session")[0] == ask(server, "GET", "/session?rater=x")[0] == 403
    lengths = (b"-1", b"1e9", b"99999999999999999999", b"+5", "٣".encode())
    for header in (b"Transfer-Encoding: chunked", *(b"Content-Length: " + n for n in lengths)):
        with socket.create_connection(server.server_address, timeout=10) as raw:
            raw.sendall(b"POST /votes HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
            assert raw.recv(100).split()[1] == b"411"
    assert not stored(study)


@pytest.mark.parametrize(
    "path",
    [
        *("/key.json", "/secret", "/votes.jsonl", "/page/index.html", "/images", "/images/"),
        *("/../key.json", "/images/../../key.json", "/%2e%2e/key.json", "/..%2fkey.json"),
        *("//etc/passwd", "/\\..\\key.json", "/images/%00.png", "/./index.html", "/INDEX.html"),
    ],
)
def test_only_the_files_of_the_page_are_served(path, server):
    assert ask(server, "GET", path)[0] == 404


def test_the_page_is_served_as_built_with_nothing_from_elsewhere_allowed(server, study):
    folder, key = study
    for name in key.files:
        status, content, headers = ask(server, "GET", f"/{name}")
        assert status == 200 and content == (folder / "page" / name).read_bytes()
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
    assert ask(server, "GET", "/?rater=x")[1] == (folder / "page/index.html").read_bytes()
    assert ask(server, "GET", "/study.js")[2]["Content-Type"].startswith("text/javascript")


def test_a_vote_is_on_the_disk_before_the_answer_and_whole_or_not_at_all(
    server, study, monkeypatch, capsys
):
    vote, path, seen = make_vote(server), study[0] / "votes.jsonl", []

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(votes.os, "fsync", full)
    assert post(server, vote)[0] == 507 and path.read_bytes() == b""
    assert session(server)["answered"] == []
    monkeypatch.setattr(votes.os, "fsync", lambda file: seen.append(path.read_bytes()))
    assert post(server, vote) == (200, {"new": True})
    assert seen == [path.read_bytes()] and len(stored(study)) == 1
    assert "could not be stored" in capsys.readouterr().err


def test_a_line_that_a_crash_cut_off_is_forgotten_and_the_rest_kept(study):
    folder, key = study
    path = folder / "votes.jsonl"
    path.unlink(missing_ok=True)
    rater = next(iter(key.raters))
    book = VoteBook(key, path)
    pairs = [pair for pair, *_ in book.session(rater)["order"]]
    for pair in pairs[:2]:
        vote = {"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, TIE)}
        assert book.record(json.dumps(vote).encode())
    book.close()
    os.truncate(path, path.stat().st_size - 7)
    book = VoteBook(key, path)
    assert book.session(rater)["answered"] == pairs[:1]
    assert book.record(json.dumps(vote).encode())
    book.close()
    assert [vote.pair for vote in read_votes(path)] == pairs[:2]
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"votes\.jsonl:1 is not a vote"):
        VoteBook(key, path)
    path.unlink()


def test_a_second_server_and_a_damaged_page_are_refused(server, study, tmp_path):
    with pytest.raises(UserError, match="in use: another server"):
        StudyServer(study[0], port=0)
    folder, _ = make_study(tmp_path, 2)
    with pytest.raises(UserError, match=r"cannot be served .*: choose another"):
        StudyServer(folder, port=server.server_address[1])
    next((folder / "page/images").glob("*.png")).unlink()
    with pytest.raises(UserError, match=r"\.png does not exist: build the study again"):
        StudyServer(folder, port=0)
    (folder / "key.json").unlink()
    with pytest.raises(UserError, match=r"key\.json does not exist: build the study first"):
        StudyServer(folder, port=0)


def test_without_ties_a_tie_is_refused(tmp_path):
    folder, key = make_study(tmp_path, 2, ties=False)
    book, rater = VoteBook(key, folder / "votes.jsonl"), next(iter(key.raters))
    pair, left, _ = book.session(rater)["order"][0]
    tie, choice = (
        json.dumps({"rater": rater, "pair": pair, "answers": dict.fromkeys(QUESTIONS, answer)})
        for answer in (TIE, left)
    )
    with pytest.raises(votes.Refused, match="by one of the pair's images"):
        book.record(tie.encode())
    assert book.record(choice.encode())
    book.close()
