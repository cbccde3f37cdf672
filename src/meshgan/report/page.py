"""Self-contained HTML pages: everything they show is inside the file."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from meshgan.errors import MeshganError
from meshgan.reading import read_bytes
from meshgan.storage import atomic_file

PNG = b"\x89PNG\r\n\x1a\n"
MOST_PICTURE = 2**26  # bytes


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill one of the templates in this folder and write it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def embedded(path: Path) -> str:
    """A PNG file as a data URI. Raises `MeshganError` if it is none."""
    image = picture_or_none(path)
    if image is None:
        raise MeshganError(f"{path} is no PNG picture; remove it and run again.")
    return image


def picture_or_none(path: Path) -> str | None:
    """The same, but None for what is no PNG file that could be read."""
    try:
        data = read_bytes(path, MOST_PICTURE)
    except MeshganError:
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii") if data.startswith(PNG) else None
