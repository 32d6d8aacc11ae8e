"""Text in pictures: measured, cut, wrapped and drawn, in any script that a font at hand has the glyphs of; and
probabilities as text."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
    "Arial.ttf",
    "LiberationSans-Regular.ttf",
    "tahoma.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "PingFang.ttc",
    "msyh.ttc",
    "meiryo.ttc",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "unifont.otf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Nirmala.ttf",
)
"""Fonts with glyphs that Pillow's own lacks, by the names of their files, as Linux, macOS and Windows install them."""
_PLAINER = {"×": "x", "−": "-", "…": "...", "–": "-", "—": "-", "ß": "ss", "æ": "ae", "œ": "oe", "Æ": "AE", "Œ": "OE"}
_PLAINER |= dict(zip("øØłŁđĐı", "oOlLdDi", strict=True))
_ATTACHED = ("Mn", "Mc", "Me", "Cf")
"""Kinds of characters that belong to the one before: accents, vowel signs, joiners."""


def percent(probability: float) -> str:
    """A probability as it is shown everywhere: in percent, "0.0 %" and "100.0 %" only where it is exactly 0 or 1.

    Example:
        >>> [percent(p) for p in (0.2222, 0.0021, 1e-7, 0.99999, 0, 1)]
        ['22.2 %', '0.2 %', '<0.1 %', '99.9 %', '0.0 %', '100.0 %']
    """
    if 0 < probability < 0.001:
        return "<0.1 %"
    share = 100 * probability
    return f"{min(share, 99.9) if share < 100 else share:.1f} %"


@cache
def font(size: int) -> Font:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def drawable(text: str) -> bool:
    """Whether every character has a glyph in a font at hand, or a plain spelling."""
    return all(_spelling(character) for character in text)


def spelled(text: str) -> str:
    """The text as it can be drawn: in one line, with a plain letter or "_" for what no font here has."""
    return "".join(_spelling(character) or "_" for character in text)


def length(text: str, size: int) -> float:
    """Its width in pixels."""
    return sum(one.getlength(part) for one, part in _runs(spelled(text), size))


def cut(text: str, size: int, width: float) -> str:
    """The text as it can be drawn, or as much of it as fits with an ellipsis."""
    text = spelled(text)
    if length(text, size) <= width:
        return text
    kept = bisect_left(range(1, len(text) + 1), True, key=lambda kept: length(text[:kept].rstrip() + "…", size) > width)
    return text[:kept].rstrip() + "…"


def wrapped(text: str, size: int, width: float, most: int) -> list[str]:
    """The text in at most `most` lines, the last one cut."""
    lines: list[str] = []
    words = spelled(text).split()
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and length(" ".join(words[: taken + 1]), size) <= width:
            taken += 1
        lines.append(cut(" ".join(words[:taken]), size, width))
        words = words[taken:]
    return [*lines, cut(" ".join(words), size, width)] if words else lines


def write(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, ink: str, size: int, align: str = "left"
) -> None:
    """Draw one line of text below `corner`, which is its left, middle or right end."""
    share = {"left": 0.0, "middle": 0.5, "right": 1.0}[align]
    text = spelled(text)
    x, y = corner[0] - share * length(text, size), corner[1]
    own = font(size)
    baseline = y + own.getmetrics()[0] if isinstance(own, ImageFont.FreeTypeFont) else y
    for one, part in _runs(text, size):
        if isinstance(one, ImageFont.FreeTypeFont):
            draw.text((x, baseline), part, ink, one, anchor="ls")
        else:
            draw.text((x, y), part, ink, one)
        x += one.getlength(part)


def _runs(text: str, size: int) -> list[tuple[Font, str]]:
    """Stretches of the text, each with the first font that can draw it."""
    fonts: list[int] = []
    for character in text:
        attached = bool(fonts) and unicodedata.category(character) in _ATTACHED
        fonts.append(fonts[-1] if attached else _font_of(character))
    stretches = groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0])
    return [(_sized(number, size), "".join(character for _, character in run)) for number, run in stretches]


@cache
def _spelling(character: str) -> str:
    """The character, or what stands for it where no font at hand has a glyph; "" if nothing does."""
    if character.isspace():
        return " "  # a line break would break the layout
    if unicodedata.category(character) in _ATTACHED or _font_of(character) or _has(font(20), character):
        return character
    return unicodedata.normalize("NFKD", _PLAINER.get(character, character)).encode("ascii", "ignore").decode()


@cache
def _font_of(character: str) -> int:
    """The number of the first font with the character: 0 for Pillow's own, also where none has it."""
    if _has(font(20), character):
        return 0
    return next((n for n, _ in enumerate(font_files(), 1) if _has(_sized(n, 20), character)), 0)


@cache
def _sized(number: int, size: int) -> Font:
    return ImageFont.truetype(font_files()[number - 1], size) if number else font(size)


@cache
def font_files() -> Sequence[str]:
    """Paths of the fonts that are installed here."""
    found = []
    for name in FONTS:
        try:
            found.append(str(ImageFont.truetype(name, 20).path))
        except OSError:
            continue
    return found


def _has(one: Font, character: str) -> bool:
    """Whether a font draws another picture for the character than for one that does not exist."""
    return bytes(one.getmask(character)) != bytes(one.getmask("\uffff"))
