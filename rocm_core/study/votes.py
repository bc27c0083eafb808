"""Votes: checked, counted once, and written to disk before they are acknowledged."""

import fcntl
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.provenance import atomic_write
from rocm_core.study.design import QUESTIONS, TIE, Key, plan

_KEYS = ("rater", "pair", "answers")


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
    """The votes of one study, in a file of one JSON object per line that only this book may write.

    What else happens to the file while the book is open is found before a vote is acknowledged.
    From then on the book takes none, and what it acknowledged is in a second file.
    """

    def __init__(self, key: Key, path: Path) -> None:
        self._key, self._path = key, path
        self._plans = {code: plan(list(key.pairs.values()), r) for code, r in key.raters.items()}
        self._writing = threading.Lock()
        self._alarmed = False  # the file is another's, and the second one is written
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._content = self._take_over()
            self._votes = {(vote.rater, vote.pair): vote for vote in read_votes(path)}
        except BaseException:
            os.close(self._file)
            raise

    def _take_over(self) -> bytearray:
        """Lock the file, mend its end, and return what it holds."""
        path = self._path
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path} is in use: another server collects this study") from None
        require_settled(path)
        _acknowledged(path).unlink(missing_ok=True)
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        lines, torn = _whole_lines(content)
        if torn:
            print(
                f"warning: {path} ends with part of a vote, which is dropped: {torn[:400]!r}",
                file=sys.stderr,
            )
            os.ftruncate(self._file, len(lines))
        os.write(self._file, lines[len(content) :])  # the last newline, if it was missing
        os.fsync(self._file)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the name of a new file
        os.close(folder)
        return bytearray(lines)

    def close(self) -> None:
        """Close the file, so that another book may open it.

        Raises `UserError` if the file is no longer what this book wrote.
        """
        try:
            self.check()
        except Refused:
            raise UserError(self._alarm()) from None
        finally:
            os.close(self._file)

    def check(self) -> None:
        """Raise `Refused` if the file is no longer what this book wrote, and save its votes."""
        with self._writing:
            self._require_own()

    def _require_own(self) -> None:
        try:
            named, opened = os.stat(self._path), os.fstat(self._file)
            own = os.path.samestat(named, opened) and self._path.read_bytes() == self._content
        except OSError:
            own = False
        if own:
            if self._alarmed:  # somebody has put things right
                _acknowledged(self._path).unlink(missing_ok=True)
                self._alarmed = False
            return
        if not self._alarmed:
            print(f"error: {self._alarm()}", file=sys.stderr, flush=True)
            with atomic_write(_acknowledged(self._path)) as file:
                Path(file.name).chmod(0o600)
                file.write(self._content)
            self._alarmed = True
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Votes cannot be stored at the moment.")

    def _alarm(self) -> str:
        path, saved = self._path, _acknowledged(self._path)
        return (
            f"{path} is no longer what this server wrote, so it takes no votes: the"
            f" {self.count} that it acknowledged are in {saved}; copy that file's content into"
            f" {path.name} to go on, or stop the server before you edit {path.name}"
        )

    @property
    def count(self) -> int:
        """How many votes the book holds."""
        return len(self._votes)

    def session(self, code: str, study: str = "") -> dict[str, Any]:
        """A rater's pairs as [id, left, right] in order, and which of them are answered.

        study: the one that the rater's page shows, if it says so.
        """
        self._require_study(study)
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
        study, rater, pair, answers = _parse(body)
        self._require_study(study)
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
            self._require_own()
            known = self._votes.get((rater, pair))
            if known and known.answers != answers:
                raise Refused(HTTPStatus.CONFLICT, "This pair has been answered before.")
            if not known:
                self._append((json.dumps(asdict(vote)) + "\n").encode())
                self._votes[rater, pair] = vote
                self._require_own()  # nobody has put another file there meanwhile
        return not known

    def _require_study(self, study: str) -> None:
        if study not in ("", self._key.study):
            reason = "This page shows an earlier version of the study: reload it to go on."
            raise Refused(HTTPStatus.GONE, reason)

    def _plan(self, code: str) -> dict[str, tuple[str, str]]:
        if code not in self._plans:
            raise Refused(HTTPStatus.FORBIDDEN, "This link belongs to no rater of the study.")
        return self._plans[code]

    def _append(self, line: bytes) -> None:
        """Write all of the line or nothing."""
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, len(self._content))
            raise
        self._content += line


def read_votes(path: Path) -> list[Vote]:
    """The votes in a file, without a last line that a crash truncated.

    Raises `UserError` with the number of a broken line.
    """
    votes = []
    lines, _ = _whole_lines(path.read_bytes())
    for number, line in enumerate(lines.split(b"\n")[:-1], 1):
        try:
            votes.append(_read_vote(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}:{number} is not a vote ({error}): restore the file") from None
    return votes


def require_settled(path: Path) -> None:
    """Raise `UserError` if votes that a server had to save elsewhere are not in the file."""
    saved = _acknowledged(path)
    if saved.exists():
        present = set(path.read_bytes().splitlines()) if path.exists() else set()
        if lost := [line for line in saved.read_bytes().splitlines() if line not in present]:
            raise UserError(
                f"{path} was changed under a running server and lacks {len(lost)} acknowledged"
                f" votes: add them from {saved}, or delete that file if they shall not count"
            )


def _acknowledged(path: Path) -> Path:
    """Where a book saves its votes when another file takes the place of its own."""
    return path.with_suffix(f".acknowledged{path.suffix}")


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """The lines of a file of votes, all ended, and what a crash left of one more.

    Editors leave out the last newline, and the vote before it counts all the same.
    """
    end = content.rfind(b"\n") + 1
    lines, rest = content[:end], content[end:]
    try:
        _read_vote(rest)
    except (ValueError, TypeError, RecursionError):
        return lines, rest
    return lines + rest + b"\n", b""


def _read_vote(line: bytes) -> Vote:
    """Raises `ValueError`, `TypeError` or `RecursionError` for anything but a vote."""
    vote = Vote(**json.loads(line))
    if not isinstance(vote.answers, dict):
        raise TypeError("it has no answers")
    values = {**vars(vote), **vote.answers, "answers": ""}.values()
    if not all(isinstance(value, str) for value in values):
        raise TypeError("it holds more than text")
    return vote


def _parse(body: bytes) -> tuple[str, str, str, dict[str, str]]:
    """(study, rater, pair, answers) of a vote's JSON, which has these keys, each once.

    It may leave out the study, "" then: a pair's id names its images by itself.
    """

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            raise ValueError("a key is given twice")
        return dict(items)

    try:
        vote = json.loads(body.decode("utf-8"), object_pairs_hook=once)
        if not isinstance(vote, dict) or vote.keys() | {"study"} != {"study", *_KEYS}:
            raise ValueError("a vote has the keys rater, pair and answers")
        study, rater, pair, answers = (vote.get(key, "") for key in ("study", *_KEYS))
        if not isinstance(answers, dict):
            raise ValueError("answers must be an object")
        if not all(isinstance(v, str) for v in (study, rater, pair, *answers.values())):
            raise ValueError("a vote holds text only")
    except (ValueError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"This is not a vote: {error}.") from None
    return study, rater, pair, answers
