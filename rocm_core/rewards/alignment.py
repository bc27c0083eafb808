"""Prompt-image alignment by a vision-language model, as DDPO and RLCM train on it.

Black et al. 2023 (arXiv 2305.13301): LLaVA describes what happens in the image, and BERTScore's
recall measures how much of the prompt the description covers. Question, reference text, the
BERTScore's model and recall rather than F1 are those of ddpo_pytorch/rewards.py (which RLCM's
release repeats) and its LLaVA-server, which also gives the length of the answer and decodes
greedily. Images reach the model as they are, not as JPEGs of quality 80, in which the two send them
to their server.

A folder holds ``captioner/``, a model of transformers' LlavaForConditionalGeneration with its
processor (``llava-hf/llava-1.5-13b-hf`` as it lies on the hub: RLCM's release asks for 13 billion
parameters, because smaller models answered nothing; its LLaVA is older), and ``bertscore/``:
``microsoft/deberta-xlarge-mnli``, weights as safetensors.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    DebertaModel,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import load_model, load_tokenizer, readable, require_folder
from rocm_core.rewards.loading import Reward
from rocm_core.rewards.preprocessing import pictures_of

DIFFERENTIABLE = False

QUESTION = "Answer concisely: what is going on in this image?"
REFERENCE = "The image contains {prompt}"
MAX_TOKENS = 64
BATCH_SIZE = 16
LAYER = 40  # of 48, the one that bert-score takes of microsoft/deberta-xlarge-mnli
BERTSCORE_TOKENS = 512

_PARTS = {"captioner": "llava", "bertscore": "deberta"}  # folders and the types of their models
_UNUSED = ("pooler.", "classifier.", "lm_predictions.")


class BertScore(nn.Module):
    """How much of a reference a text covers, by greedy matching of an encoder's final embeddings.

    Zhang et al. 2020 (arXiv 1904.09675): R is the mean, over the reference's tokens, of the largest
    cosine with any of the candidate's tokens. As the package bert-score 0.3.13 computes it without
    idf weights and without rescaling: [CLS] and [SEP] are not counted but may be matched, texts are
    cut at 512 tokens, and a text without tokens scores 0. Unlike there, padding is never matched,
    so a score does not depend on the batch. The package fails with transformers 5 on this model's
    tokenizer.
    """

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
            max_length=BERTSCORE_TOKENS,
            return_tensors="pt",
        ).to(self.encoder.device)
        ids, mask = tokens.input_ids, tokens.attention_mask.bool()
        states = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        special = (ids == self.tokenizer.cls_token_id) | (ids == self.tokenizer.sep_token_id)
        return nn.functional.normalize(states.float(), dim=-1), mask & ~special, mask


class Alignment(nn.Module, Reward):
    """BERTScore recall of "The image contains <prompt>" in the caption, at most 1."""

    def __init__(
        self,
        captioner: LlavaForConditionalGeneration,
        processor: ProcessorMixin,
        bertscore: BertScore,
    ):
        super().__init__()
        self.captioner, self.processor, self.bertscore = captioner, processor, bertscore
        ask = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        self._request = processor.apply_chat_template(
            [{"role": "user", "content": ask}], add_generation_prompt=True
        )

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own prompt."""
        references = [REFERENCE.format(prompt=prompt) for prompt in prompts]
        scores = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            scores.append(self.bertscore.recall(self.caption(images[batch]), references[batch]))
        return torch.cat(scores).to(images.device)

    @torch.no_grad()
    def caption(self, images: Tensor) -> list[str]:
        """The model's descriptions of images (N, 3, H, W) in [0, 1], rounded to 8 bits."""
        pictures = pictures_of(images)
        inputs = self.processor(
            images=pictures, text=[self._request] * len(pictures), return_tensors="pt"
        ).to(self.captioner.device, self.captioner.dtype)
        said = self.captioner.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=MAX_TOKENS
        )[:, inputs["input_ids"].shape[1] :]
        return [s.strip() for s in self.processor.batch_decode(said, skip_special_tokens=True)]


def load(weights: Path | None, device: str | torch.device, dtype: torch.dtype | None) -> Alignment:
    """``dtype`` is the captioner's, by default float16 on a GPU as in DDPO, float32 elsewhere."""
    folder = require_folder(weights, "alignment")
    for part, model_type in _PARTS.items():
        # For another type, transformers would build a full-size random model before failing.
        path = folder / part / "config.json"
        with readable(f"{path} is absent or damaged"):
            held = json.loads(path.read_text(encoding="utf-8"))["model_type"]
        if held != model_type:
            raise UserError(
                f"{path.parent} holds a model of type {held}, not {model_type}; fetch one"
            )
    with readable(f"{folder / 'captioner'} holds no readable processor"):
        processor = AutoProcessor.from_pretrained(folder / "captioner", local_files_only=True)
    if getattr(processor, "chat_template", None) is None:
        raise UserError(
            f"{folder / 'captioner'} holds no chat template, which puts the question;"
            " fetch it again"
        )
    bertscore = BertScore.read(folder / "bertscore").to(device)
    half = torch.device(device).type == "cuda"
    captioner = load_model(LlavaForConditionalGeneration, folder / "captioner")
    captioner.to(device, dtype or (torch.float16 if half else torch.float32))
    return Alignment(captioner, processor, bertscore).requires_grad_(False).eval()
