"""The gold judge's name among the metrics: a module of its own, as readers need no more."""

GOLD = "gold"
