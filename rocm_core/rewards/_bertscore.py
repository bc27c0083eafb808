"""BERTScore's recall: how much of a reference a text covers, by greedy matching of embeddings.

Zhang et al. 2020 (arXiv 1904.09675): R is the mean, over the reference's tokens, of the largest
cosine with any of the candidate's tokens. As the package bert-score 0.3.13 computes it without idf
weights and without rescaling: [CLS] and [SEP] are not counted but may be matched, texts are cut at
512 tokens, and a text without tokens scores 0. Unlike there, padding is never matched, so a score
does not depend on the batch. The package fails with transformers 5 on this model's tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DebertaModel, PreTrainedTokenizerBase

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import load_model, load_tokenizer

LAYER = 40  # of 48, the one that bert-score takes of microsoft/deberta-xlarge-mnli
MAX_TOKENS = 512

_UNUSED = ("pooler.", "classifier.", "lm_predictions.")


class BertScore(nn.Module):
    """Recall by an encoder's final embeddings."""

    def __init__(self, encoder: DebertaModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer

    @classmethod
    def read(cls, folder: Path) -> "BertScore":
        """With microsoft/deberta-xlarge-mnli from its folder, truncated after :data:`LAYER`."""
        encoder = load_model(DebertaModel, folder, unused=_UNUSED)
        layers = encoder.encoder.layer
        if len(layers) < LAYER:
            raise UserError(
                f"{folder} has {len(layers)} layers of which BERTScore takes the {LAYER}th;"
                " fetch microsoft/deberta-xlarge-mnli"
            )
        encoder.encoder.layer = layers[:LAYER]
        return cls(encoder, load_tokenizer(folder))

    @torch.no_grad()
    def recall(self, candidates: Sequence[str], references: Sequence[str]) -> Tensor:
        """(N,) recall of each reference in its candidate, in [-1, 1]."""
        said, _, said_mask = self._embed(candidates)
        wanted, counted, _ = self._embed(references)
        cosines = wanted @ said.mT  # (N, reference, candidate)
        best = cosines.masked_fill(~said_mask[:, None], -torch.inf).amax(2)
        recall = (best * counted).sum(1) / counted.sum(1).clamp_min(1)
        return recall.masked_fill(said_mask.sum(1) <= 2, 0)  # only [CLS] and [SEP]

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings (N, tokens, D), and (N, tokens) which are words and which are tokens."""
        tokens = self.tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(self.encoder.device)
        ids, mask = tokens.input_ids, tokens.attention_mask.bool()
        states = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        special = (ids == self.tokenizer.cls_token_id) | (ids == self.tokenizer.sep_token_id)
        return nn.functional.normalize(states.float(), dim=-1), mask & ~special, mask
