"""Denoisers, one module each: a diffusers pipeline's networks, loaded from its folder."""
