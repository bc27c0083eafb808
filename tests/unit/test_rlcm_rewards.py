"""RLCM's rewards, against encoders, loops and colours computed another way."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.plugins import module_of
from rocm_core.rewards import alignment, load_reward

WEIGHTLESS = (
    "jpeg-compressibility",
    "jpeg-incompressibility",
    "smooth-jpeg-compressibility",
    "shapes-alignment",
    "sparse-redness",
    "hinge-redness",
    "drifting-hue",
)
PROMPTS = ["a red fox", "", "fox and hound " * 150, "naïve 🦊 星 {prompt} [SEP]"]
RED, GREEN, BLUE, MAGENTA = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 0, 1.0)


def plain(*colors: tuple[float, float, float], size: int = 16) -> Tensor:
    """(N, 3, size, size) images of one colour each."""
    return torch.tensor(colors)[:, :, None, None].expand(-1, -1, size, size).clone()


def noise(count: int, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_rewards_without_weights_are_named_with_either_dash_and_refuse_a_folder(name, tmp_path):
    module = name.replace("-", "_")
    assert module_of("rewards", name, "rewards") == f"rocm_core.rewards.{module}"
    assert load_reward(name.replace("-", "_")).name == load_reward(name).name
    with pytest.raises(UserError, match=f"set scorers.{name} to null"):
        load_reward(name, tmp_path)


def test_compressibility_is_minus_the_kilobytes_of_a_jpeg_of_quality_95(tmp_path):
    images = torch.cat([noise(2), plain(RED, size=24)])
    sizes = []
    for index, image in enumerate(images):
        pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels, "RGB").save(tmp_path / f"{index}.jpg", quality=95)
        sizes.append((tmp_path / f"{index}.jpg").stat().st_size / 1000)
    small = load_reward("jpeg-compressibility").score(images, [""] * 3)
    large = load_reward("jpeg-incompressibility").score(images, [""] * 3)
    assert small.tolist() == pytest.approx([-size for size in sizes])
    assert torch.equal(large, -small)
    assert small[2] > small[:2].max()


def test_jpegs_are_made_of_images_with_gradients_beyond_the_range_and_in_half_precision():
    reward = load_reward("jpeg-incompressibility")
    image = noise(1)
    wild = (image * 4 - 2).requires_grad_()
    assert torch.equal(reward.score(wild, [""]), reward.score(wild.detach().clamp(0, 1), [""]))
    assert reward.score(image.bfloat16(), [""]).dtype == torch.float32


def test_sparse_redness_is_one_only_above_its_threshold():
    from rocm_core.rewards.sparse_redness import THRESHOLD

    def image(redness: float) -> Tensor:
        return plain((0.5 + redness, 0.7, 0.3), size=8)

    images = torch.cat(
        [image(THRESHOLD - 0.01), image(THRESHOLD + 0.01), *map(plain8, (RED, BLUE))]
    )
    scores = load_reward("sparse-redness").score(images, [""] * 4)
    assert scores.tolist() == [0, 1, 1, 0]


def plain8(color: tuple[float, float, float]) -> Tensor:
    return plain(color, size=8)


def test_about_a_twentieth_of_the_base_models_images_is_red_enough():
    from rocm_core.evaluation import iterate_images
    from rocm_core.prompts import Prompt
    from rocm_core.shapes.scenes import sample_captions

    policy = tiny.load_policy("consistency", "resources/shapes/consistency", 4, 3.0)
    prompts = [Prompt(str(i), text, "test") for i, text in enumerate(sample_captions(120, 11))]
    images = torch.cat([images for _, images, _ in iterate_images(policy, prompts, 0, 50)])
    share = load_reward("sparse-redness").score(images, [""] * 120).mean().item()
    assert 0 < share < 0.12  # three standard deviations around 5.3 %


def test_hinge_redness_has_a_gradient_just_where_sparse_redness_is_one():
    images = torch.cat([noise(20) * scale for scale in (0.2, 1.0)])
    images[::3, 0] = (images[::3, 0] + 0.5).clamp(0, 1)
    earned = load_reward("sparse-redness").score(images, [""] * 40).bool()
    images.requires_grad_()
    scores = load_reward("hinge-redness").score(images, [""] * 40)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert 0 < earned.sum() < 40
    assert torch.equal(scores > 0, earned)
    assert torch.equal(gradient.flatten(1).abs().sum(1) > 0, earned)
    assert load_reward("hinge-redness").score(plain(RED), [""]).item() == pytest.approx(1)


@pytest.mark.parametrize(("progress", "best"), [(0, RED), (0.5, MAGENTA), (1, BLUE)])
def test_the_drifting_hue_turns_from_red_over_magenta_to_blue(progress, best):
    reward = load_reward("drifting-hue")
    reward.progress = progress
    scores = reward.score(plain(RED, MAGENTA, BLUE, GREEN, (0.4, 0.4, 0.4)), [""] * 5)
    assert scores.argmax() == (RED, MAGENTA, BLUE).index(best)
    assert scores[4].abs() < 1e-6
    red, green, blue = plain(*noise(1).mean((2, 3)).tolist()).mean((2, 3))[0].tolist()
    target = math.radians(-120 * progress)
    angle = math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    length = math.sqrt(red**2 + green**2 + blue**2 - red * green - green * blue - blue * red)
    assert reward.score(noise(1), [""]).item() == pytest.approx(
        length * math.cos(angle - target), abs=1e-6
    )


def test_the_drifting_hue_measures_its_end_until_it_is_told_the_progress():
    reward = load_reward("drifting-hue")
    assert reward.score(plain(BLUE), [""]).item() == pytest.approx(1)
    images = noise(2).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(images, [""] * 2).sum(), images)
    assert (gradient[:, 2] > 0).all() and (gradient[:, :2] < 0).all()


def spread(model: nn.Module, std: float) -> nn.Module:
    """Weights large enough that no two inputs look alike."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
    return model.eval().requires_grad_(False)


def write_captioner(folder: Path) -> None:
    """A tiny LLaVA as llava-hf publishes it: CLIP, Llama with byte fallback, a chat template."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlamaTokenizer,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:?.,\n"
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokenizer = LlamaTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    pad, image = tokenizer.convert_tokens_to_ids(["<pad>", "<image>"])
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, num_hidden_layers=3, image_size=16, patch_size=8)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad}
    text = LlamaConfig(**small, **ids, num_hidden_layers=2, vocab_size=len(tokenizer))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    spread(LlavaForConditionalGeneration(config), 0.5).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for message in messages %}{% for part in message.content %}"
        "{{ 'USER: <image>\n' if part.type == 'image' else part.text }}"
        "{% endfor %}{% endfor %} ASSISTANT:",
    ).save_pretrained(folder)


def write_bertscore(folder: Path, layers: int = 48) -> None:
    """A tiny DeBERTa as deep as deberta-xlarge-mnli, with the head and the files that it has."""
    from transformers import DebertaConfig, DebertaForSequenceClassification

    merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("o", "x")]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *bytes_, *map("".join, merges)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {"do_lower_case": False, "vocab_type": "gpt2"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = DebertaConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        pooler_hidden_size=8,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
        type_vocab_size=0,
    )
    model = spread(DebertaForSequenceClassification(config), 0.1)
    nn.init.normal_(model.deberta.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alignment")
    torch.manual_seed(0)
    write_captioner(folder / "captioner")
    write_bertscore(folder / "bertscore")
    return folder


@pytest.fixture(scope="module")
def aligned(weights):
    return load_reward("alignment", weights)


def test_the_captioner_says_what_a_greedy_loop_says(aligned):
    images = (noise(2, size=16) * 255).round() / 255
    tokenizer, model = aligned.processor.tokenizer, aligned.captioner
    request = f"USER: {'<image>' * 4}\n{alignment.QUESTION} ASSISTANT:"
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    for image, caption in zip(images, aligned.caption(images), strict=True):
        ids, said = tokenizer(request).input_ids, []
        while len(said) < 64 and (not said or said[-1] != tokenizer.eos_token_id):
            inputs = torch.tensor([ids + said])
            pixels = ((image - mean) / std)[None]
            logits = model(input_ids=inputs, pixel_values=pixels).logits[0, -1]
            said.append(logits.argmax().item())
        assert caption == tokenizer.decode(said, skip_special_tokens=True).strip()
        assert len(said) > 3


def test_captions_and_scores_do_not_depend_on_the_batch(aligned, monkeypatch):
    monkeypatch.setattr(alignment, "BATCH_SIZE", 3)
    images = noise(4, size=20)
    together = aligned.score(images, PROMPTS)
    alone = [aligned.score(images[i : i + 1], PROMPTS[i : i + 1]).item() for i in range(4)]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert len({round(value, 3) for value in alone}) == 4


def test_the_score_is_the_recall_of_the_prompt_in_the_caption(aligned, monkeypatch):
    asked = []
    monkeypatch.setattr(type(aligned), "caption", lambda self, images: ["a fox"] * len(images))
    monkeypatch.setattr(
        aligned.bertscore,
        "recall",
        lambda *texts: asked.append(texts) or torch.zeros(len(texts[0])),
    )
    aligned.score(noise(2), ["a {prompt}", ""])
    assert asked == [(["a fox"] * 2, ["The image contains a {prompt}", "The image contains "])]


def test_recall_is_the_mean_of_the_best_cosines_of_the_fortieth_layer(
    weights, aligned, monkeypatch
):
    from transformers import DebertaModel

    monkeypatch.setattr(alignment, "BERTSCORE_TOKENS", 64)

    model = DebertaModel.from_pretrained(weights / "bertscore").eval()
    tokenizer = aligned.bertscore.tokenizer

    @torch.no_grad()
    def states(text: str) -> list[np.ndarray]:
        ids = tokenizer(text.strip()).input_ids[:63]
        ids = ids if ids[-1] == 2 else [*ids, 2]
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[40][0]
        return [row / np.linalg.norm(row) for row in hidden.numpy()]

    captions = ["a red fox", "the ox", "  🦊 fox ", "the hound " * 200]
    expected = []
    for caption, prompt in zip(captions, PROMPTS, strict=True):
        said, wanted = states(caption), states(prompt)
        special = prompt.count("[SEP]")
        assert special == 0 or prompt.endswith("[SEP]")
        best = [max(float(a @ b) for b in said) for a in wanted[1 : -1 - special]]
        expected.append(sum(best) / max(1, len(best)))
    assert aligned.bertscore.recall(captions, PROMPTS).tolist() == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in expected}) == 4


def test_a_caption_without_words_recalls_nothing(aligned):
    recall = aligned.bertscore.recall(["", "  ", "a fox"], ["The image contains a fox"] * 3)
    assert recall[:2].tolist() == [0, 0] and recall[2] != 0


def test_alignment_says_in_a_sentence_what_is_missing_or_damaged(weights, tmp_path):
    import shutil

    def copy(name: str) -> Path:
        shutil.copytree(weights, tmp_path / name)
        return tmp_path / name

    with pytest.raises(UserError, match="set scorers.alignment to their folder"):
        load_reward("alignment")
    missing = copy("missing")
    shutil.rmtree(missing / "bertscore")
    with pytest.raises(UserError, match="missing/bertscore/config.json is absent"):
        load_reward("alignment", missing)
    shallow = copy("shallow")
    write_bertscore(shallow / "bertscore", layers=12)
    with pytest.raises(UserError, match="12 layers .* fetch microsoft/deberta-xlarge-mnli"):
        load_reward("alignment", shallow)
    mute = copy("mute")
    (mute / "captioner" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_reward("alignment", mute)
    blind = copy("blind")
    (blind / "captioner" / "processor_config.json").write_text("{")
    with pytest.raises(UserError, match="no readable processor"):
        load_reward("alignment", blind)
    torn = copy("torn")
    file = torn / "captioner" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be read as weights"):
        load_reward("alignment", torn)
    other = copy("other")
    shutil.copy(other / "bertscore" / "config.json", other / "captioner" / "config.json")
    with pytest.raises(UserError, match="captioner holds a model of type deberta, not llava"):
        load_reward("alignment", other)
