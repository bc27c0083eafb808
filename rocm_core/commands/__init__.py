"""Commands: everything that people and rules start with `python -m rocm_core.commands.<name>`."""
