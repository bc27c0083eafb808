"""The name of the gold judge among the metrics: a module of its own, for readers that need no more."""

GOLD = "gold"
