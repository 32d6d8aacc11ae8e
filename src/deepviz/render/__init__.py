"""Tensor <-> picture: colour maps, overlays, sheets."""

from deepviz.render.colour import Scale, colour
from deepviz.render.overlay import colour_bar, grey, heatmap, overlay, place
from deepviz.render.sheet import Tile, fitted, resized, sheet

__all__ = ["Scale", "Tile", "colour", "colour_bar", "fitted", "grey", "heatmap", "overlay", "place", "resized", "sheet"]
