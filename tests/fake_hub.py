"""A Hugging Face hub on this machine: its HTTP protocol as far as fetching a file goes."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """Serves `files`, {(repository, revision, path): content}, at `url`.

    Large files redirect to another host, as the hub's do to its storage. The next `cut` bodies
    break off after half of them; with `hold` they wait there instead, till the hub stops. With
    `portal` it is a captive one, whose page answers every request, or those of a method. `headers`
    replace those of the hub's answers, `storage_tag` is the ETag of its storage.
    `requests` lists (method, path, Range) as they came, and `tokens` where one came.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.heads: dict[str, str] = {}  # the newest revision of each repository
        self.requests: list[tuple[str, str, str | None]] = []
        self.portal: tuple[str, ...] = ()  # methods
        self.page = b"<html>Accept the terms of this hotel</html>" * 100
        self.headers: dict[str, str] = {}
        self.storage_tag = '"storage"'
        self.tokens: list[str] = []
        self.cut, self.hold, self.stopped = 0, False, threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients die here
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}/storage"

    def put(self, repo: str, revision: str, path: str, content: bytes) -> None:
        self.files[repo, revision, path] = content
        self.heads[repo] = revision

    def sent(self, path: str) -> list[str | None]:
        """The Range of each request for a body whose address holds `path`."""
        return [part for method, at, part in self.requests if method == "GET" and path in at]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                hub.requests.append((self.command, self.path, self.headers.get("Range")))
                if "Authorization" in self.headers:
                    hub.tokens.append(f"{self.headers['Host']}{self.path}")
                if self.command in hub.portal:
                    return self.send_body(hub.page, {"Content-Type": "text/html"})
                if self.path.startswith("/storage/"):
                    return self.send_storage(self.path.rpartition("/")[2])
                place = re.fullmatch(
                    r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path
                )
                if not place or place[1] not in hub.heads:
                    return self.refuse(401, "RepoNotFound")
                repo, revision, path = place.groups()
                revision = hub.heads[repo] if revision == "main" else revision
                if not any(key[:2] == (repo, revision) for key in hub.files):
                    return self.refuse(404, "RevisionNotFound")
                if (repo, revision, path) not in hub.files:
                    return self.refuse(404, "EntryNotFound")
                content = hub.files[repo, revision, path]
                headers = {"X-Repo-Commit": revision}
                sha256 = hashlib.sha256(content).hexdigest()
                if len(content) < 1000:
                    blob = b"blob %d\0" % len(content) + content  # git's
                    headers["ETag"] = f'"{hashlib.sha1(blob).hexdigest()}"'
                    return self.send_body(content, headers | hub.headers)
                headers |= {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
                headers |= hub.headers
                self.send_response(302)
                for name, value in ({"Location": f"{hub.storage}/{sha256}"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def send_storage(self, sha256: str) -> None:
                for content in hub.files.values():
                    if hashlib.sha256(content).hexdigest() == sha256:
                        return self.send_body(content, {"ETag": hub.storage_tag})
                self.refuse(404, "EntryNotFound")

            def send_body(self, content: bytes, headers: dict[str, str]) -> None:
                first = 0
                same = self.headers.get("If-Range") in (None, headers.get("ETag"))
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                if wanted and same and "Content-Type" not in headers:
                    first = int(wanted[1])
                    headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                body = content[first:]
                self.send_response(206 if first else 200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    half = len(body) // 2
                    self.wfile.write(body[:half])
                    if hub.hold:
                        hub.stopped.wait()
                    elif hub.cut:
                        hub.cut -= 1
                        self.close_connection = True
                    else:
                        self.wfile.write(body[half:])

            def refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler


@contextlib.contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
