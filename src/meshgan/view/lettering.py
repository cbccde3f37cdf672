"""Lines of text on pictures, in the font that ships with matplotlib; `f_{ID}` has a subscript."""

import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

INK, SOFT_INK = (38, 40, 44), (110, 114, 120)
SMALLEST = 8  # pixels; below, nobody reads it

Font = ImageFont.FreeTypeFont


def fitting(texts: Iterable[str], size: float, room: float) -> Font:
    """The font in `size` pixels, or smaller, so that each of `texts` fits into `room` pixels."""
    font = _font(size)
    widest = max((width(text, font) for text in texts), default=0)
    return font if widest <= room else _font(max(SMALLEST, font.size * room / widest))


def width(text: str, font: Font) -> float:
    """The length of a line in pixels."""
    return sum(face.getlength(piece) for piece, face, _ in _pieces(text, font))


def write(
    sheet: Image.Image, text: str, centre: tuple[float, float], font: Font, ink: tuple[int, int, int] = INK
) -> None:
    """Write one line around `centre`."""
    draw, x = ImageDraw.Draw(sheet), centre[0] - width(text, font) / 2
    for piece, face, drop in _pieces(text, font):
        draw.text((round(x), round(centre[1] + drop)), piece, fill=ink, font=face, anchor="lm")
        x += face.getlength(piece)


def write_upright(sheet: Image.Image, text: str, centre: tuple[float, float], font: Font) -> None:
    """Write one line around `centre` that reads upwards."""
    label = Image.new("RGB", (round(width(text, font)) + 2, round(font.size * 1.5)), "white")
    write(label, text, (label.width / 2, label.height / 2), font)
    turned = label.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(turned, (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2)))


def _font(size: float) -> Font:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), round(size))


def _pieces(text: str, font: Font) -> list[tuple[str, Font, float]]:
    """Text, font and drop below the line of each run of plain or subscript letters."""
    small = _font(font.size * 0.7)
    parts = re.split(r"_\{(.*?)\}", text)
    return [(part, small, font.size * 0.28) if i % 2 else (part, font, 0.0) for i, part in enumerate(parts) if part]
