"""Self-contained HTML pages: everything they show is inside the file."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from meshgan.storage import atomic_file


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
    """A PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
