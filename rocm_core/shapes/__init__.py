"""The embedded world of shapes: scenes and captions, their renderer, and the gold judge."""
