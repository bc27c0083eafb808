"""Results kept over an update of the code: who accepted them, and under which fingerprint."""

import contextlib
import getpass
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT
from rocm_core.provenance.files import write_json
from rocm_core.provenance.layout import Layout
from rocm_core.provenance.manifests import git_commit


class Accepted:
    """The record `accepted.json` of one configuration's results.

    For each manifest it names the code that was accepted, and the fingerprint that Snakemake has on
    record for the job, which the rules go on showing it while the code is the accepted one.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.entries: dict[str, dict[str, str]] = {}
        if layout.accepted.exists():
            try:
                self.entries = dict(json.loads(layout.accepted.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{layout.accepted} cannot be read ({error}): restore it, or remove it to run"
                    " again what it kept"
                ) from None

    def code(self, manifest: Path, code: str) -> str:
        """The fingerprint that the rules show Snakemake for a job whose code is now `code`."""
        entry = self.entries.get(manifest.relative_to(self.layout.root).as_posix(), {})
        return entry["recorded"] if entry.get("code") == code else code

    def accept(self, manifest: Path, code: str) -> None:
        """Note in a manifest and in this record that its results stand for those of `code`."""
        key = manifest.relative_to(self.layout.root).as_posix()
        content = json.loads(manifest.read_text(encoding="utf-8"))
        made_by, before = content["code"], self.entries.get(key, {})
        # A job that ran under accepted code is on record under the older fingerprint.
        recorded = before["recorded"] if before.get("code") == made_by else made_by
        note = {"code": code, "instead_of": made_by, "by": _who(), "commit": git_commit()}
        note["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(manifest, content | {"accepted": [*content.get("accepted", []), note]})
        self.entries[key] = {"code": code, "recorded": recorded}

    def save(self) -> None:
        """Write the record."""
        write_json(self.layout.accepted, dict(sorted(self.entries.items())))


def accepted_code(manifest: dict[str, Any]) -> str | None:
    """The fingerprint that was accepted for a manifest last; None if none was."""
    notes = manifest.get("accepted") or [{}]
    return notes[-1].get("code")


def _who() -> str:
    """The name and address that git signs commits with, else the login."""
    command = ["git", "-C", str(ROOT), "var", "GIT_AUTHOR_IDENT"]
    with contextlib.suppress(OSError):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if found := re.match(r".+?<.+?>", answer.stdout):
            return found[0]
    return getpass.getuser()
