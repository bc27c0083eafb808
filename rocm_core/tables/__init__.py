"""The tables: each is a module here with `make(results) -> Table` and its facts; no list has them."""

from rocm_core.tables.registry import tables

__all__ = ["tables"]
