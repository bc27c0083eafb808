"""The tables of the paper: each name is a module here with `make(results) -> Table`."""

TABLES = ("table1",)
