"""The tables: each is a module here, with its facts and `make(results) -> Table`."""

from rocm_core.tables.registry import tables

__all__ = ["tables"]
