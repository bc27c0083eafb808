"""Which configuration a folder of results is of, so that no other one goes on in it unnoticed."""

import json
from collections.abc import Mapping, Sequence

from rocm_core.errors import UserError
from rocm_core.provenance.files import Layout, write_json


def require_same_origin(layout: Layout, files: Sequence[str], sections: Mapping[str, str]) -> None:
    """Raise `UserError` where the results are of another configuration file with other contents.

    files: the configuration's. sections: {section: digest}, of which `partial` does not count: it
    renders the same results. An edit of the same file is no other configuration, nor is a copy that
    says the same, or one with another file over it.
    """
    if not layout.origin.exists():
        return
    try:
        record = json.loads(layout.origin.read_text(encoding="utf-8"))
        known, others = dict(record["sections"]), list(record["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{layout.origin} cannot be read ({error}): restore or remove it") from None
    either = {*sections, *known} - {"partial"}  # an optional one may have gone
    differing = sorted(k for k in either if known.get(k) != sections.get(k))
    now, then = {*files}, {*others}
    if differing and not (now & then and (now <= then or now >= then)):
        own = ", ".join(files) or "this configuration"
        raise UserError(
            f"{layout.root} holds the results of {', '.join(others)}, from which {own}, of the same"
            f" name, differs in {', '.join(differing)}: change its `name`, or remove"
            f" {layout.origin} to go on there"
        )


def record_origin(layout: Layout, files: Sequence[str], sections: Mapping[str, str]) -> None:
    """Write down which configuration goes on in a folder of results."""
    write_json(layout.origin, {"files": list(files), "sections": dict(sections)})
