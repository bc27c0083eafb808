"""The key of a study: what its ids mean. For server and analysis only; it is never served."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rocm_core.errors import UserError
from rocm_core.provenance import atomic_write
from rocm_core.study.design import Pair, Rater

FILE = "key.json"


@dataclass(frozen=True)
class Key:
    """A built study: its pairs by id, its raters by code, and the files of its page.

    comparisons: (first, second), the names that the configuration gives the compared models.
    """

    study: str
    ties: bool
    comparisons: tuple[tuple[str, str], ...]
    raters: Mapping[str, Rater]
    pairs: Mapping[str, Pair]
    files: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write the key of the study in `folder`, readable by its owner only."""
        with atomic_write(folder / FILE) as file:
            Path(file.name).chmod(0o600)
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Key":
        """The key of the study in `folder`; raises `UserError` if there is none."""
        path = folder / FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            pairs = {
                name: Pair(**{**pair, "sides": tuple(pair["sides"])})
                for name, pair in values["pairs"].items()
            }
            return cls(
                values["study"],
                values["ties"],
                tuple(map(tuple, values["comparisons"])),
                {code: Rater(**rater) for code, rater in values["raters"].items()},
                pairs,
                tuple(values["files"]),
            )
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: build the study first") from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is not a study's key ({error}): build it again") from None
