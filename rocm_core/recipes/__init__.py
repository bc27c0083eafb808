"""Recipes: how the models and scorers of the embedded world are trained, one command each."""
