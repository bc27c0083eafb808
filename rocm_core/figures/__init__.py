"""The figures: each is a module here, with its facts and `make(results) -> Drawing`."""

from rocm_core.figures.registry import figures

__all__ = ["figures"]
