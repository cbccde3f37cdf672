"""The import rule: data flows through the folders in one direction."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "meshgan"
FOUNDATION = {"errors", "machine", "progress", "reading", "storage"}
ALLOWED = {
    "geometry": set(),
    "data": {"geometry"},
    "nn": {"geometry"},
    "training": {"nn", "data", "geometry", "view"},
    "model": {"training", "nn", "data", "geometry"},
    "evaluation": {"model", "training", "nn", "data", "geometry", "view"},
    "view": {"geometry"},
    "registration": {"model", "data", "geometry"},
    "studio": {"registration", "evaluation", "model", "training", "nn", "data", "geometry", "view"},
    "report": {"evaluation", "model", "training", "nn", "data", "geometry", "view"},
}
TORCH_FREE = {"geometry", "data", "view", "registration"} | FOUNDATION


def imports(path: Path) -> set[str]:
    """All modules that a file imports, wherever in the file, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_layers(path: Path) -> None:
    here = layer(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("meshgan.")}
    if here in FOUNDATION:
        assert ours <= FOUNDATION
    elif here in ALLOWED:
        assert ours <= ALLOWED[here] | FOUNDATION | {here}
    if here in TORCH_FREE:
        assert not any(name.split(".")[0] == "torch" for name in imports(path))
    if here not in {"cli", "bench", "__init__"}:
        assert "__init__" not in ours
        assert "cli" not in ours


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(ALLOWED) | {"bench", "cli", "recipes", "assets"}
