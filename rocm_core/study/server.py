"""A small server for a study: the files of its page, a rater's session, and the votes."""

import json
import mimetypes
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rocm_core.errors import UserError
from rocm_core.study.build import PAGE
from rocm_core.study.design import Key
from rocm_core.study.votes import FILE, Refused, VoteBook

LARGEST_VOTE = 4096  # bytes
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the rater's code
    "X-Content-Type-Options": "nosniff",
}


class StudyServer(ThreadingHTTPServer):
    """Serves the study built in `folder` at (host, port), and appends to its votes.jsonl.

    Raises `UserError` if the page is incomplete or the address cannot be used.
    """

    daemon_threads = True
    request_queue_size = 128  # a room of raters who press a key at once; the default resets a sixth

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
        key = Key.read(folder)
        self.raters = list(key.raters)
        # Requests are looked up here, so no path that a client makes up ever reaches the disk.
        self.files = {f"/{name}": folder / PAGE / name for name in key.files}
        lost = next((file for file in self.files.values() if not file.is_file()), None)
        if lost:
            raise UserError(f"{lost} does not exist: build the study again")
        self.files["/"] = self.files["/index.html"]
        self.votes = VoteBook(key, folder / FILE)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} cannot be served ({error}): choose another") from None

    @property
    def address(self) -> str:
        """The address of the page."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def server_close(self) -> None:
        """Close the address and the votes."""
        super().server_close()
        self.votes.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects is not an error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "study", ""
    timeout = 30  # seconds that a connection may be silent

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/session":
            rater = parse_qs(url.query).get("rater", [""])[0]
            self._answer(lambda: self.server.votes.session(rater))
        elif url.path in self.server.files:
            file = self.server.files[url.path]
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._send(HTTPStatus.OK, kind, file.read_bytes())
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file.")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 10):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "A vote must say how long it is.")
            return
        # Much of what is too long is read all the same: a client that still writes hears no answer.
        body = self.rfile.read(min(int(length), 16 * LARGEST_VOTE))
        if self.path != "/votes":
            self._refuse(HTTPStatus.NOT_FOUND, "Votes go to /votes.")
        elif int(length) > LARGEST_VOTE:
            most = f"A vote has at most {LARGEST_VOTE} bytes."
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
        elif self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A vote must be application/json.")
        else:
            self._answer(lambda: {"new": self.server.votes.record(body)})

    def _answer(self, ask: Callable[[], Any]) -> None:
        """What `ask` returns as JSON, or its refusal."""
        try:
            answer = ask()
        except Refused as error:
            self._refuse(error.status, str(error))
        except OSError as error:
            print(f"error: the vote could not be stored: {error}", file=sys.stderr, flush=True)
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, "The vote could not be stored.")
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(answer).encode())

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what is left of a refused request is not read
        self._send(status, "application/json", json.dumps({"error": reason}).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        text = kind.startswith("text/") or kind == "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind + ("; charset=utf-8" if text else ""))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=86400" if kind == "image/png" else "no-store")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because a request's address contains the rater's code."""
