"""The figures: each is a module here with `make(results) -> Drawing` and its facts; no list has
them."""

from rocm_core.figures.registry import figures

__all__ = ["figures"]
