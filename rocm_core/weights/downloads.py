"""One file over HTTP: never more than it may have, and resumed only as the same object.

huggingface_hub's `http_get` continues whatever lies there, and takes whatever comes.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from rocm_core.errors import UserError

HUB = "huggingface.co"  # the only host that is sent the user's token
ATTEMPTS = 5  # without a new byte
PAUSE_SECONDS = 1.0
_CHUNK = 1 << 20
_PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Remote:
    """A file to fetch to `path` and how its host describes it; None where it does not.

    hash: sha256, or git's of a blob. size: in bytes. limit: the most that are taken.
    """

    path: str
    repo: str
    url: str
    hash: str | None
    size: int | None
    limit: int


def is_hub(url: str) -> bool:
    """Whether an address is the hub's own, over TLS: where the token may go."""
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname == HUB and parts.port in (None, 443)


def tag_of(partial: Path) -> Path:
    """Where the ETag is kept that came with the bytes of an unfinished file."""
    return partial.with_name(f"etag-{partial.name}")


def download(remote: Remote, partial: Path) -> None:
    """Fetch the whole file under the name `partial`, to be checked and moved by the caller.

    Bytes that lie there are continued only if the host confirms by the strong ETag it sent with
    them that they are of the same object. A connection that breaks is tried again. Raises httpx2's
    errors, and `UserError` for a body of another size or of more than `remote.limit` bytes.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    most, failures = 0, 0
    while True:
        error: Exception = httpx2.ReadError("the body ended early")
        try:
            if _continue(remote, partial):
                return
        except httpx2.TransportError as broken:
            error = broken
        except HfHubHTTPError as refused:
            if refused.response.status_code not in _PASSING:
                raise
            error = refused
        here = partial.stat().st_size if partial.exists() else 0
        failures = 0 if here > most else failures + 1
        most = max(most, here)
        if failures >= ATTEMPTS:
            raise error
        time.sleep(PAUSE_SECONDS)


def _continue(remote: Remote, partial: Path) -> bool:
    """Add to `partial` what one request gives; whether that completed it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = build_hf_headers(token=None if is_hub(remote.url) else False)
    headers["Accept-Encoding"] = "identity"
    tag = tag_of(partial)
    start = partial.stat().st_size if partial.exists() and tag.exists() else 0
    if start:
        if start == remote.size:
            return True
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text()}
    request = get_session().stream(
        "GET", remote.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )
    with request as response:
        if response.status_code != 416:  # there is no such rest
            hf_raise_for_status(response)
        total = _total(response)
        if total is not None and total != (remote.size or total):
            raise UserError(
                f"{remote.path} should have {remote.size:,} bytes, but {total:,} of"
                f" {response.headers.get('Content-Type', 'no type')} come: a captive portal or a"
                " proxy may have answered; fetch it from another network"
            )
        if not start or not _goes_on(response, start, tag.read_text()):
            start = 0
            partial.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
            if response.status_code != 200:
                return False  # the next request asks for all of it
        etag = response.headers.get("ETag", "")
        if not start and etag.startswith('"') and "Content-Encoding" not in response.headers:
            tag.write_text(etag)
        bar = tqdm(
            desc=remote.path,
            initial=start,
            total=remote.size or total,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        with bar, open(partial, "ab") as output:
            for chunk in response.iter_bytes(_CHUNK):
                start += len(chunk)
                if start > remote.limit:
                    output.truncate(0)
                    raise UserError(
                        f"{remote.repo} sends more than the {remote.limit:,} bytes that"
                        f" {remote.path} may have: a captive portal or a proxy may have answered;"
                        " fetch it from another network"
                    )
                output.write(chunk)
                bar.update(len(chunk))
    return start == (remote.size or total or start)


def _goes_on(response: Any, start: int, etag: str) -> bool:
    """Whether a response is the rest of the object that the first bytes are of."""
    span = response.headers.get("Content-Range", "")
    same = response.headers.get("ETag") == etag and span.startswith(f"bytes {start}-")
    return response.status_code == 206 and same


def _total(response: Any) -> int | None:
    """The size of the whole object in bytes, where the response says it."""
    span, _, total = response.headers.get("Content-Range", "").rpartition("/")
    length = total if span else response.headers.get("Content-Length", "")
    return (
        int(length) if length.isdecimal() and "Content-Encoding" not in response.headers else None
    )
