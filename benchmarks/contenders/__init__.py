"""The trainers that are compared, each a process of its own that does one step when asked."""
