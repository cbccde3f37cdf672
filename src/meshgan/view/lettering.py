"""Lines of text on pictures, with subscripts, in the font that ships with matplotlib."""

import re
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

INK, SOFT_INK = (38, 40, 44), (110, 114, 120)

Font = ImageFont.FreeTypeFont


def font_of(size: float) -> Font:
    """The font in `size` pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), round(size))


def write(
    sheet: Image.Image,
    text: str,
    centre: tuple[float, float],
    font: Font,
    room: float,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Write one line around `centre`, smaller if it needs more than `room` pixels; `_WORD` is a subscript."""
    width = _width(text, font)
    if width > room:
        font = font_of(max(8, font.size * room / width))
        width = _width(text, font)
    draw, x = ImageDraw.Draw(sheet), centre[0] - width / 2
    for piece, face, drop in _pieces(text, font):
        draw.text((round(x), round(centre[1] + drop)), piece, fill=ink, font=face, anchor="lm")
        x += face.getlength(piece)


def write_upright(sheet: Image.Image, text: str, centre: tuple[float, float], font: Font, room: float) -> None:
    """Write one line that reads upwards."""
    label = Image.new("RGB", (round(room), round(font.size * 1.5)), "white")
    write(label, text, (label.width / 2, label.height / 2), font, room)
    turned = label.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(turned, (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2)))


def _pieces(text: str, font: Font) -> list[tuple[str, Font, float]]:
    """Text, font and drop below the line of each run of plain or subscript letters."""
    small = font_of(font.size * 0.7)
    parts = re.split(r"_(\w+)", text)
    return [(part, small, font.size * 0.28) if i % 2 else (part, font, 0.0) for i, part in enumerate(parts) if part]


def _width(text: str, font: Font) -> float:
    return sum(face.getlength(piece) for piece, face, _ in _pieces(text, font))
