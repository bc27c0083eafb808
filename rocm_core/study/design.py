"""Which pairs a study shows, to whom, in which order and on which side; and the key to its ids.

Everything that must not be guessed comes from a secret, drawn once per study: a public seed would
let a rater with this code work out which model is which. The same secret gives the same study, so
a rebuilt page keeps the votes on the pairs whose images have not changed.
"""

import hashlib
import hmac
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.provenance import StudyFiles, atomic_write

QUESTIONS = ("appeal", "alignment", "preference")
TIE = "tie"


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, `first` and `second` by the models of a comparison (its index).

    `sides` holds the same two image ids as (left, right).
    """

    id: str
    comparison: int
    prompt: str
    source: str
    first: str
    second: str
    sides: tuple[str, str]


@dataclass(frozen=True)
class Rater:
    """A rater: an unguessable code, and whether all pairs are shown with their sides swapped."""

    code: str
    mirrored: bool


@dataclass(frozen=True)
class Key:
    """A built study: its pairs by id, its raters by code, and the files of its page.

    For server and analysis only; it is never served.

    study: names all that the page shows; another image, pair, side or script has another name.
    comparisons: (first, second), the names of the compared models.
    files: {name: sha256}, so that what is served is what was built.
    chosen: {the name that the configuration gives the best of several: which it is, and why}, as
    `rocm_core.study.best` has it.
    """

    study: str
    ties: bool
    comparisons: tuple[tuple[str, str], ...]
    raters: Mapping[str, Rater]
    pairs: Mapping[str, Pair]
    files: Mapping[str, str]
    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the key of the study in `folder`, readable by its owner only."""
        with atomic_write(StudyFiles(folder).key) as file:
            Path(file.name).chmod(0o600)
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Key":
        """The key of the study in `folder`; raises `UserError` if there is none."""
        path = StudyFiles(folder).key
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
                dict(values["files"]),
                dict(values["chosen"]),
            )
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: build the study first") from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is not a study's key ({error}): build it again") from None


def identify(secret: str, *parts: str) -> str:
    """32 hexadecimal digits that reveal nothing about `parts` without the secret."""
    return hmac.new(secret.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()[:32]


def choose_prompts(
    prompts: Sequence[Prompt], count: int, shares: Mapping[str, float], seed: int
) -> list[Prompt]:
    """`count` prompts drawn without replacement, from each source in proportion to its share.

    Without shares, drawn from all. Raises `UserError` if a source has too few.
    """
    generator = random.Random(seed)
    chosen = []
    for source, number in _apportion(count, shares).items() if shares else [(None, count)]:
        own = [prompt for prompt in prompts if source in (None, prompt.source)]
        if len(own) < number:
            counts = Counter(p.source for p in prompts).items()
            sources = ", ".join(f"{n} of {s}" for s, n in counts) or "none"
            wanted = f"{number} prompts" + (f" of {source}" if source else "")
            raise UserError(
                f"the study needs {wanted}, but there are {sources}: lower study.pairs or"
                " correct study.shares"
            )
        chosen += generator.sample(own, number)
    return chosen


def _apportion(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`count` split by shares; what rounding leaves goes to the largest remainders."""
    exact = {source: count * share / sum(shares.values()) for source, share in shares.items()}
    whole = {source: int(number) for source, number in exact.items()}
    by_remainder = sorted(exact, key=lambda source: whole[source] - exact[source])
    for source in by_remainder[: count - sum(whole.values())]:
        whole[source] += 1
    return whole


def make_pairs(
    comparison: int, prompts: Sequence[Prompt], images: Sequence[tuple[str, str]], secret: str
) -> list[Pair]:
    """The pairs of one comparison; the first model is on the left in half of them.

    images: for each prompt, identifiers of the first and of the second model's image.
    """
    generator = random.Random(identify(secret, "sides", str(comparison)))
    left = [index % 2 == 0 for index in range(len(prompts))]
    generator.shuffle(left)
    if generator.random() < 0.5:  # an odd number has a half too many, on either side
        left = [not is_left for is_left in left]
    pairs = []
    for prompt, (one, other), first_is_left in zip(prompts, images, left, strict=True):
        content = (str(comparison), prompt.id, prompt.text, one, other)
        first, second = (identify(secret, name, *content) for name in ("first", "second"))
        sides = (first, second) if first_is_left else (second, first)
        identity = identify(secret, "pair", *content)
        pairs.append(Pair(identity, comparison, prompt.id, prompt.source, first, second, sides))
    return pairs


def make_raters(count: int, secret: str) -> list[Rater]:
    """Raters, every other one mirrored, so that two of them see each pair both ways."""
    codes = [identify(secret, "rater", str(index))[:16] for index in range(count)]
    return [Rater(code, index % 2 == 1) for index, code in enumerate(codes)]


def plan(pairs: Sequence[Pair], rater: Rater) -> dict[str, tuple[str, str]]:
    """{pair id: (left, right)} in the rater's own random order."""
    order = sorted(pairs, key=lambda pair: pair.id)
    random.Random(rater.code).shuffle(order)
    return {pair.id: pair.sides[::-1] if rater.mirrored else pair.sides for pair in order}
