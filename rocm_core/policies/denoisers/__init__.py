"""Denoisers, one module each: a diffusers pipeline's networks, loaded from its folder."""

from rocm_core.policies.denoisers.denoiser import HIDDEN, Denoiser, Embeddings
