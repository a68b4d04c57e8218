"""Film strips, where notebooks look for them."""

from lipsync_lightning.media.strips import film_strip, save_png

__all__ = ["film_strip", "save_png"]
