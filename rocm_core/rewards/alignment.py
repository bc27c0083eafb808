"""Prompt-image alignment by a vision-language model, as DDPO and RLCM train on it.

Black et al. 2023 (arXiv 2305.13301): LLaVA describes what happens in the image, and BERTScore's
recall measures how much of the prompt the description covers. Question, reference text, the
BERTScore's model and recall rather than F1 are those of ddpo_pytorch/rewards.py (which RLCM's
release repeats) and its LLaVA-server, which also gives the length of the answer and decodes
greedily. Images reach the model as they are, not as JPEGs of quality 80, in which the two send them
to their server.

A folder holds ``captioner/``, a model of transformers' LlavaForConditionalGeneration with its
processor (``llava-hf/llava-1.5-7b-hf`` as it lies on the hub; DDPO's LLaVA is older), and
``bertscore/``: ``microsoft/deberta-xlarge-mnli``, weights as safetensors.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration, ProcessorMixin

from rocm_core.errors import UserError
from rocm_core.rewards._bertscore import BertScore
from rocm_core.rewards.checkpoints import load_model, readable, require_folder
from rocm_core.rewards.loading import Reward
from rocm_core.rewards.preprocessing import pictures_of

DIFFERENTIABLE = False

QUESTION = "Answer concisely: what is going on in this image?"
REFERENCE = "The image contains {prompt}"
MAX_TOKENS = 64
BATCH_SIZE = 16

_PARTS = {"captioner": "llava", "bertscore": "deberta"}  # folders and the types of their models


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
        texts = self.processor.batch_decode(said, skip_special_tokens=True)
        return [text.strip() for text in texts]


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
