"""The font of all figures, and the characters that it lacks."""

from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

FONT = "DejaVu Sans"
"""The font of all figures; it comes with matplotlib, so all machines have it."""


def missing_glyphs(text: str) -> str:
    """The characters of a text for which the font has no glyph, each once."""
    known = FT2Font(findfont(FontProperties(family=FONT), fallback_to_default=False)).get_charmap()
    return "".join(dict.fromkeys(letter for letter in text if ord(letter) not in known))
