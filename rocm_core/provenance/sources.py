"""Where the files are that a configuration names: the user's own, or those of this checkout."""

from pathlib import Path

from rocm_core.plugins import ROOT


def located(path: str | Path) -> Path:
    """The file or folder of a configuration's path: in the working directory if it exists there,
    else in this checkout if it exists there. What is in neither is to be made here."""
    path = Path(path)
    is_shipped = ".." not in path.parts and not path.exists() and (ROOT / path).exists()
    return ROOT / path if is_shipped else path


def here(*paths: str | Path | None) -> list[str]:
    """Those of several paths that are not in the checkout instead: what a rule depends on, so that
    nothing runs again where the checkout moves."""
    return [str(path) for path in paths if path and located(path) == Path(path)]
