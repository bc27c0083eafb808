"""The tables: each is a module here, with its facts and `make(results) -> Table`."""
