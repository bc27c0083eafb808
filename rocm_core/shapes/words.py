"""The words of the shapes world's captions, in a module light enough for configuration checks."""

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS = {
    "red": (0.90, 0.10, 0.12),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.97, 0.85, 0.10),
    "purple": (0.60, 0.15, 0.75),
    "cyan": (0.10, 0.80, 0.90),
}
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("in the center", "at the left", "at the right", "at the top", "at the bottom")
STYLES = ("plain", "gradient", "checkered")
BACKGROUNDS = {"black": (0.05,) * 3, "gray": (0.50,) * 3, "white": (0.95,) * 3}

# Words that tell captions apart.
WORDS = frozenset(
    word
    for texts in (SHAPES, COLORS, SIZES, RELATIONS, PLACES, STYLES, BACKGROUNDS)
    for text in texts
    for word in text.split()
) - {"of", "in", "at", "the"}
