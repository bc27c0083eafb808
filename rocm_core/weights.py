"""Local weights against the sha256 that their MANIFEST.json lists."""

from pathlib import Path

from rocm_core.errors import UserError
from rocm_core.provenance import files_in, listed_hashes, sha256_file


def check_weights(path: str | Path) -> None:
    """Raise `UserError` unless the weights are all there and are those of the MANIFEST.json in the
    folder or just above it, {relative name: sha256}; without a manifest they need only exist."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"the weights {path} do not exist: fetch them or correct the path")
    folder = path if path.is_dir() else path.parent
    listed = listed_hashes(folder)
    if not path.is_dir():
        listed = {name: sha256 for name, sha256 in listed.items() if name == path.name}
    elif stray := sorted(set(files_in(folder)) - set(listed)) if listed else []:
        raise UserError(f"{folder / stray[0]} is not listed in MANIFEST.json: remove it")
    for name, sha256 in listed.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing, which MANIFEST.json lists: restore it")
        if sha256_file(file) != sha256:
            size = file.stat().st_size
            raise UserError(
                f"{file} ({size:,} bytes) is truncated or changed, its sha256 is not that of"
                " MANIFEST.json: restore it"
            )
