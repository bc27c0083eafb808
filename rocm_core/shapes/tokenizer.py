"""The shapes world's CLIP tokenizer: byte-level BPE learned on its own captions.

Every word of the world is one token, and any other text still tokenizes (into bytes).
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from rocm_core.shapes.scenes import sample_captions

LENGTH = 18  # tokens, start and end included: the longest caption has 17
_END_OF_WORD = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer whose merges cover the words of the captions; deterministic."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix=_END_OF_WORD,
        show_progress=False,
    )
    bpe.train_from_iterator(sample_captions(2000, seed=0), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = alphabet + [a + _END_OF_WORD for a in alphabet] + ["".join(m) for m in merges]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*tokens, _START, _END]))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=_END,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        model_max_length=LENGTH,
    )


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer in the layout that diffusers and transformers read."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    # What is read back must agree before anyone trains on it.
    sample, reloaded = sample_captions(50, seed=3), CLIPTokenizer.from_pretrained(folder)
    if reloaded(sample).input_ids != tokenizer(sample).input_ids:
        raise RuntimeError("the saved tokenizer does not reload to the same tokens")
