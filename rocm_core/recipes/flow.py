"""Train the shapes world's second few-step base: ``python -m rocm_core.recipes.flow``.

Another architecture and another chain than the first: Stable Diffusion 3's transformer, trained as
a rectified flow (Esser et al. 2024, logit-normal noise levels) on the same renderings of mixed
quality; its ODE is what :mod:`.distillation` follows.
"""

import copy
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from rocm_core.recipes import diffusion, distillation
from rocm_core.recipes.steps import kept, run_recipe
from rocm_core.shapes.models import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    make_flow_scheduler,
    make_projecting_encoder,
    make_transformer,
    tokenize,
    write_pipeline,
)
from rocm_core.shapes.scenes import TRAINING_PAIR_SHARE, describe, training_scenes

TIMESTEPS = 1000  # of the noise level 1, as the scheduler counts them
SOLVER_STEPS = 20
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}  # which diffusers wants to be told

Text = tuple[Tensor, Tensor]  # (N, L, 2 D) of the tokens, (N, 2 D) pooled


class Velocity(nn.Module):
    """The transformer and its text encoders as one trainable module: u = ε - x0 is predicted at
    x = (1 - σ) x0 + σ ε."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = make_transformer()
        self.text_encoders = nn.ModuleList(make_projecting_encoder(tokenizer) for _ in range(2))

    def encode(self, tokens: Tensor) -> Text:
        """What the pipeline tells the transformer of captions."""
        told = [encoder(tokens, output_hidden_states=True) for encoder in self.text_encoders]
        hidden = torch.cat([one.hidden_states[-2] for one in told], -1)
        return hidden, torch.cat([one.text_embeds for one in told], -1)

    def forward(self, noisy: Tensor, sigmas: Tensor, text: Text) -> Tensor:
        return self.transformer(
            hidden_states=noisy,
            timestep=TIMESTEPS * sigmas,
            encoder_hidden_states=text[0],
            pooled_projections=text[1],
        ).sample


def flow_loss(model: Velocity, latents: Tensor, tokens: Tensor, g: torch.Generator) -> Tensor:
    """Squared error of the predicted velocity at noise levels from a logit-normal."""
    sigmas = torch.randn(len(latents), generator=g).sigmoid()
    noise = torch.randn(latents.shape, generator=g)
    at = sigmas[:, None, None, None]
    velocity = model((1 - at) * latents + at * noise, sigmas, model.encode(tokens))
    return ((velocity - (noise - latents)) ** 2).mean()


@torch.no_grad()
def trajectories(
    teacher: Velocity, texts: Text, seed: int, batch_size: int = 100
) -> dict[str, Tensor]:
    """Points on the flow's ODE for N captions, as :func:`.consistency.trajectories` has them:
    ``points`` (P, 8, 8, 8) at the levels ``sigmas`` (P,), ``rows`` (P,), ``ends`` (N, 8, 8, 8)."""
    g = torch.Generator().manual_seed(seed)
    count = len(texts[0])
    points, sigmas, rows, ends = [], [], [], []
    for start in range(0, count, batch_size):
        text = texts[0][start : start + batch_size], texts[1][start : start + batch_size]
        x = torch.randn(len(text[0]), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=g)
        # Where a batch looks differs, so that all levels are seen.
        inner = (torch.arange(SOLVER_STEPS, 0, -1) - torch.rand((), generator=g)) / SOLVER_STEPS
        grid = [1.0, *inner[inner > 0].tolist(), 0.0]
        for here, there in zip(grid, grid[1:], strict=False):
            level = torch.full((len(x),), here)
            points.append(x)
            sigmas.append(level)
            rows.append(torch.arange(start, start + len(x)))
            x = x + (there - here) * teacher(x, level, text)
        ends.append(x)
    names = ("points", "sigmas", "rows", "ends")
    return dict(zip(names, map(torch.cat, (points, sigmas, rows, ends)), strict=True))


def distil(teacher: Velocity, tokens: Tensor, state: Path, steps: int, batch_size: int) -> Velocity:
    """The moving average of a student of the teacher for captions of tokens (N, L); goes on from
    ``state``. Its text encoders are the teacher's."""
    torch.manual_seed(0)
    with torch.no_grad():
        texts = teacher.encode(tokens)
    student = copy.deepcopy(teacher)
    student.transformer.requires_grad_(True)

    def answer(points: Tensor, sigmas: Tensor, rows: Tensor) -> Tensor:
        velocity = student(points, sigmas, (texts[0][rows], texts[1][rows]))
        return points - sigmas[:, None, None, None] * velocity

    def solve() -> dict[str, Tensor]:
        return trajectories(teacher, texts, seed=2)

    return distillation.distil("few-step flow", student, solve, answer, state, steps, batch_size)


def save_pipeline(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, model: Velocity, output: Path
) -> None:
    """Write the model as a folder of diffusers' StableDiffusion3Pipeline in float16."""
    vae.register_to_config(shift_factor=0.0)  # which that pipeline adds
    first, second = model.text_encoders
    pipeline = StableDiffusion3Pipeline(
        transformer=model.transformer,
        scheduler=make_flow_scheduler(),
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        **WITHOUT_T5,
    )
    write_pipeline(pipeline, output)


def main(
    vae: Path,
    tokenizer: Path,
    output: Path,
    state: Path,
    steps: int = 12_000,
    batch_size: int = 32,
    images: int = 30_000,
    student_steps: int = 1000,
    captions: int = 1000,
) -> None:
    """output: folder of the pipeline. state: folder of an interrupted run to go on from. captions:
    of the trajectories."""
    autoencoder = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32)
    autoencoder.requires_grad_(False)
    words = CLIPTokenizer.from_pretrained(tokenizer)

    def flow() -> dict[str, Tensor]:
        place = state / "flow"
        made = diffusion.train(
            Velocity, flow_loss, autoencoder, words, place, steps, batch_size, images, 1e-3
        )
        return made.state_dict()

    state.mkdir(parents=True, exist_ok=True)
    teacher = Velocity(words)
    teacher.load_state_dict(kept(state / "flow.pt", flow))
    teacher.requires_grad_(False)
    scenes = training_scenes(captions, torch.Generator().manual_seed(2), TRAINING_PAIR_SHARE)
    tokens = tokenize(words, describe(scenes))
    student = distil(teacher, tokens, state / "student", student_steps, batch_size)
    save_pipeline(autoencoder, words, student, output)
    shutil.rmtree(state)


if __name__ == "__main__":
    run_recipe(main)
