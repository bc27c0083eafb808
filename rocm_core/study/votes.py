"""Votes: checked, counted once, and written to disk before they are acknowledged."""

import fcntl
import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.study.design import QUESTIONS, TIE, Key, plan

FILE = "votes.jsonl"


class Refused(Exception):
    """A vote that does not count: one sentence, and the HTTP status that goes with it."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Vote:
    """One rater's answers on one pair: {question: the id of the better image, or "tie"}."""

    rater: str
    pair: str
    left: str
    right: str
    answers: dict[str, str]
    time: str


class VoteBook:
    """The votes of one study, in a file of one JSON object per line; only one book may open it."""

    def __init__(self, key: Key, path: Path) -> None:
        self._key = key
        self._plans = {code: plan(list(key.pairs.values()), r) for code, r in key.raters.items()}
        self._writing = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._votes = self._take_over(path)
        except BaseException:
            os.close(self._file)
            raise

    def _take_over(self, path: Path) -> dict[tuple[str, str], Vote]:
        """Lock the file, and read what it holds already."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path} is in use: another server collects this study") from None
        # A line without an end was cut off by a crash and never acknowledged.
        os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the name of a new file
        os.close(folder)
        return {(vote.rater, vote.pair): vote for vote in read_votes(path)}

    def close(self) -> None:
        """Close the file, so that another book may open it."""
        os.close(self._file)

    @property
    def count(self) -> int:
        """How many votes the book holds."""
        return len(self._votes)

    def session(self, code: str) -> dict[str, Any]:
        """A rater's pairs as [id, left, right] in order, and which of them are answered."""
        order = self._plan(code)
        return {
            "order": [[pair, *sides] for pair, sides in order.items()],
            "answered": [pair for pair in order if (code, pair) in self._votes],
        }

    def record(self, body: bytes) -> bool:
        """Store a vote as the page sends it; False: it was stored before.

        The vote is on disk when this returns. Raises `Refused` for anything but an answer of the
        study's raters on one of its pairs, and for a different answer on an answered pair.
        """
        rater, pair, answers = _parse(body)
        order = self._plan(rater)
        if pair not in order:
            raise Refused(HTTPStatus.NOT_FOUND, "This pair is not part of the study.")
        allowed = [*order[pair], *([TIE] if self._key.ties else [])]
        if answers.keys() != set(QUESTIONS) or not all(a in allowed for a in answers.values()):
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "Each question must be answered by one of the pair's images"
                + (" or a tie." if self._key.ties else "."),
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        vote = Vote(rater, pair, *order[pair], answers, now)
        with self._writing:
            known = self._votes.get((rater, pair))
            if known and known.answers != answers:
                raise Refused(HTTPStatus.CONFLICT, "This pair has been answered before.")
            if not known:
                self._append((json.dumps(asdict(vote)) + "\n").encode())
                self._votes[rater, pair] = vote
        return not known

    def _plan(self, code: str) -> dict[str, tuple[str, str]]:
        if code not in self._plans:
            raise Refused(HTTPStatus.FORBIDDEN, "This link belongs to no rater of the study.")
        return self._plans[code]

    def _append(self, line: bytes) -> None:
        """Write all of the line or nothing."""
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise


def read_votes(path: Path) -> list[Vote]:
    """The votes in a file, without a last line that a crash truncated.

    Raises `UserError` with the number of a broken line.
    """
    votes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            votes.append(Vote(**json.loads(line)))
            if not isinstance(votes[-1].answers, dict):
                raise TypeError("it has no answers")
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number} is not a vote ({error}): restore the file") from None
    return votes


def _parse(body: bytes) -> tuple[str, str, dict[str, str]]:
    """(rater, pair, answers) of a vote's JSON, which has exactly these keys, each once."""

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            raise ValueError("a key is given twice")
        return dict(items)

    try:
        vote = json.loads(body.decode("utf-8"), object_pairs_hook=once)
        if not isinstance(vote, dict) or vote.keys() != {"rater", "pair", "answers"}:
            raise ValueError("a vote has the keys rater, pair and answers")
        answers = vote["answers"]
        if not isinstance(answers, dict):
            raise ValueError("answers must be an object")
        if not all(isinstance(v, str) for v in (vote["rater"], vote["pair"], *answers.values())):
            raise ValueError("a vote holds text only")
    except (ValueError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"This is not a vote: {error}.") from None
    return vote["rater"], vote["pair"], answers
