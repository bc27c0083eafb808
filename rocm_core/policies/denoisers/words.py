"""Words of prompts that a small model has never seen."""

import re
from collections.abc import Sequence
from typing import Any

from rocm_core.errors import warn

# Tokens: in a vocabulary of fewer every word that the model was trained on is one token, as in the
# embedded world's. CLIP's has 49,408, and there a word of several is nothing special.
_OWN_WORDS = 5000
_NAMED = 20  # words in a warning, at most


class Words:
    """The words of the prompts so far, of which the unknown ones are told once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, bool] = {}

    def warn_of_unknown(self, prompts: Sequence[str]) -> None:
        """Warn of new words that the embedded world's captions do not have."""
        if self.tokenizer is None or len(self.tokenizer) > _OWN_WORDS:
            return
        words = dict.fromkeys(re.findall(r"\w[\w'-]*", " ".join(prompts)))
        new = {w: len(self.tokenizer.tokenize(w)) == 1 for w in words if w not in self._known}
        self._known |= new
        if unknown := [word for word, known in new.items() if not known]:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            warn(
                f"the model was trained on captions without"
                f" {', '.join(map(repr, unknown[:_NAMED]))}{more}: it cannot draw that"
            )
