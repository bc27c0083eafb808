"""A small server for a study: the files of its page, a rater's session, and the votes.

uvicorn speaks HTTP: it waits for slow clients without a thread for each, and keeps the requests of
a connection apart whatever they contain. Here is only what to answer.
"""

import asyncio
import hashlib
import json
import mimetypes
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rocm_core.errors import UserError
from rocm_core.provenance import StudyFiles
from rocm_core.study.design import Key
from rocm_core.study.votes import Refused, VoteBook

LARGEST_VOTE = 4096  # bytes
PATIENCE = 120.0  # seconds for a request and its answer, and for an idle connection
_FAREWELL = 2.0  # seconds for what is under way when the server stops
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the rater's code
    "X-Content-Type-Options": "nosniff",
}


class StudyServer:
    """Serves the study built in `folder` at (host, port), and appends to its votes.jsonl.

    Raises `UserError` if the page is not what was built or the address cannot be used.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
        files = StudyFiles(folder)
        self._key_file, self._page = files.key, files.page
        self._key_bytes = self._key_file.read_bytes() if self._key_file.exists() else b""
        self._key = Key.read(folder)
        self.raters = list(self._key.raters)
        for name in self._key.files:
            if self._read(name) is None:
                file = self._page / name
                trouble = "is not what was built" if file.exists() else "does not exist"
                raise UserError(f"{file} {trouble}: build the study again")
        self.votes = VoteBook(self._key, files.votes)
        try:
            self._socket = socket.create_server((host, port))
            self.server_address = self._socket.getsockname()
        except (OSError, OverflowError) as error:
            self.votes.close()
            raise UserError(f"{host}:{port} cannot be served ({error}): choose another") from None
        self._warned = False
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._converse,
                interface="asgi3",
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,  # a request's address contains the rater's code
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(PATIENCE),
                callback_notify=self._look_after_votes,
                timeout_notify=0,
            )
        )

    def __enter__(self) -> "StudyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The address of the page."""
        host, port = self.server_address
        return f"http://{host}:{port}/"

    def serve_forever(self) -> None:
        """Answer requests until `shutdown`; a signal that stops it is raised again at its end."""
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        """Make `serve_forever` finish what is under way and return; callable from any thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Close the address and the votes."""
        self._socket.close()
        self.votes.close()

    async def _look_after_votes(self) -> None:
        """Every second: votes that another file replaces are saved before anything else happens."""
        try:
            await asyncio.to_thread(self.votes.check)
        except (Refused, OSError):
            pass  # told on stderr

    async def _converse(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """One request and its answer, as an ASGI application."""
        # Much of what is too long is read all the same: a client that still writes hears no answer.
        body, more = bytearray(), True
        while more and len(body) <= 16 * LARGEST_VOTE:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        status, kind, content = await asyncio.to_thread(self._answer, scope, bytes(body))
        text = kind.startswith("text/") or kind == "application/json"
        headers = {
            "Content-Type": kind + ("; charset=utf-8" if text else ""),
            "Content-Length": str(len(content)),
            "Cache-Control": "max-age=86400" if kind == "image/png" else "no-store",
            **_HEADERS,
            **({} if status == HTTPStatus.OK else {"Connection": "close"}),
        }
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, scope: Mapping[str, Any], body: bytes) -> tuple[HTTPStatus, str, bytes]:
        """(status, content type, content) of the answer to a request."""
        try:
            return HTTPStatus.OK, *self._find(scope, body)
        except Refused as error:
            status, reason = error.status, str(error)
        except OSError as error:
            print(f"error: the vote could not be stored: {error}", file=sys.stderr, flush=True)
            status, reason = HTTPStatus.INSUFFICIENT_STORAGE, "The vote could not be stored."
        return status, "application/json", json.dumps({"error": reason}).encode()

    def _find(self, scope: Mapping[str, Any], body: bytes) -> tuple[str, bytes]:
        """(content type, content) of what is asked for, or `Refused`."""
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "The study has pages and takes votes.")
        if b"transfer-encoding" in headers:  # what it says of the length, a proxy may not believe
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "A request must say how long it is.")
        if len(body) > LARGEST_VOTE:
            most = f"A vote has at most {LARGEST_VOTE} bytes."
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
        self._require_current()
        if method == "POST":
            if path != "/votes":
                raise Refused(HTTPStatus.NOT_FOUND, "Votes go to /votes.")
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                reason = "A vote must be application/json."
                raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
            return _json({"new": self.votes.record(body)})
        if path == "/session":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            rater, study = (query.get(name, [""])[0] for name in ("rater", "study"))
            return _json(self.votes.session(rater, study))
        # Files are looked up, so no path that a client makes up ever reaches the disk.
        name = path.removeprefix("/") or "index.html"
        if not path.startswith("/") or name not in self._key.files:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such file.")
        content = self._read(name)
        if content is None:
            raise self._outdated()
        return mimetypes.guess_type(name)[0] or "application/octet-stream", content

    def _require_current(self) -> None:
        """Refuse everything once another study has been built, or is about to be."""
        try:
            current = self._key_file.read_bytes() == self._key_bytes
        except OSError:
            current = False
        if not current:
            raise self._outdated()

    def _outdated(self) -> Refused:
        if not self._warned:
            self._warned = True
            print(
                f"error: {self._key_file.parent} is no longer the study that this server shows, so"
                " it takes no votes: start it again when the study has been built",
                file=sys.stderr,
                flush=True,
            )
        return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The study is being changed.")

    def _read(self, name: str) -> bytes | None:
        """A file of the page; None if it is not the one that was built with the key."""
        try:
            content = (self._page / name).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == self._key.files[name] else None


def _json(answer: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(answer).encode()


class _Protocol(H11Protocol):
    """Cuts off clients that take too long, which uvicorn does for idle connections only.

    Otherwise connections that send a byte now and then would add up until none is left.
    """

    _seconds = PATIENCE
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def shutdown(self) -> None:
        super().shutdown()
        self._seconds = _FAREWELL
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def _wait(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self._seconds, self.transport.abort)
