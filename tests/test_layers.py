"""The import rule: data flows through the folders in one direction, and folders side by side do not know each other."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "meshgan"
ORDER = (
    {"geometry"},
    {"view", "data", "nn"},
    {"model"},
    {"training", "evaluation", "registration"},
    {"studio", "report"},
    {"cli", "bench"},
)
# single modules below all folders
FOUNDATION = {
    "arrays",
    "compiled",
    "errors",
    "machine",
    "progress",
    "reading",
    "remembered",
    "storage",
}
TORCH_FREE = {"geometry", "view", "data"} | FOUNDATION
LAZY = {"registration"}  # needs torch for a prior from a trained model only: its workers do without
FOLDERS = set().union(*ORDER)
MODULES = sorted(SOURCE.rglob("*.py"))


def left_of(folder: str) -> set[str]:
    """What a folder may import, itself among it."""
    if folder in FOUNDATION:
        return FOUNDATION
    place = next(number for number, group in enumerate(ORDER) if folder in group)
    return set().union(*ORDER[:place]) | FOUNDATION | {folder}


def imports(path: Path, top_only: bool = False) -> set[str]:
    """The modules that a file imports as dotted names, wherever in the file, or only those that importing it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _run_on_import(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _run_on_import(tree: ast.AST) -> list[ast.AST]:
    """The nodes outside functions and outside `if TYPE_CHECKING`."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found += [node, *_run_on_import(node)]
    return found


def layer(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    parts = ("meshgan", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_layers(path: Path) -> None:
    here = layer(path)
    if here == "__init__":
        return  # the facade names things of all layers
    names = imports(path)
    assert "meshgan" not in names, "the facade is for others"
    ours = {name.split(".")[1] for name in names if name.startswith("meshgan.")} - {"__version__"}
    assert ours <= left_of(here)
    if here in TORCH_FREE:
        assert not {name for name in names if name.split(".")[0] == "torch"}
    if here in LAZY:
        top = {name.split(".")[0] for name in imports(path, top_only=True)}
        assert "torch" not in top


def test_folders_that_do_without_torch_load_nothing_that_loads_it() -> None:
    """Followed through all modules: what a module imports on import, and what that imports."""
    graph = module_graph()
    for path in MODULES:
        if layer(path) in TORCH_FREE | LAZY:
            assert "torch" not in reached(graph, name_of(path)), name_of(path)


WITH_TORCH = {  # verbs that compute with it whatever they are asked; all others import it under an `if`, if at all
    "evaluate.py": {"evaluate", "reproduce", "_reproduce_figure"},
    "studio.py": {"export"},
    "train.py": {"train"},
}


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_verbs_that_do_without_torch_do_not_wait_for_it(path: Path) -> None:
    graph, tree = module_graph(), ast.parse(path.read_text(encoding="utf-8"))
    for verb in tree.body:
        if isinstance(verb, ast.FunctionDef) and verb.name not in WITH_TORCH.get(path.name, ()):
            for line in verb.body:
                if isinstance(line, ast.ImportFrom):
                    loaded = {line.module, *(f"{line.module}.{alias.name}" for alias in line.names)}
                    assert all("torch" not in reached(graph, module or "") for module in loaded), (verb.name, loaded)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = module_graph()
    for name in graph:
        assert all(name not in reached(graph, other) for other in graph[name] if other != name), name


def test_what_a_module_imports_at_once_comes_with_every_installation() -> None:
    """What an extra brings is imported where it is used, so that its absence is a sentence."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[<>=\[; ]", text)[0].replace("-", "_") for text in project["dependencies"]}
    known = core - {"pillow"} | {"PIL", "meshgan"} | set(sys.stdlib_module_names)
    for path in MODULES:
        if layer(path) != "studio":  # all of which is imported behind a check for its extra
            others = {name.split(".")[0] for name in imports(path, top_only=True)} - known
            assert not others, f"{path}: {others}"


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == FOLDERS
    assert {path.stem for path in SOURCE.glob("*.py")} == FOUNDATION | {"__init__"}


@cache
def module_graph() -> dict[str, set[str]]:
    """The modules of ours, and torch, that each module loads when it is imported."""
    known = {name_of(path) for path in MODULES} - {"meshgan"}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        loaded: set[str] = set()
        for name in imports(path, top_only=True):
            loaded |= {name} & known or {name.rpartition(".")[0]} & known
            loaded |= {"torch"} if name.split(".")[0] == "torch" else set()
        graph[name_of(path)] = loaded
    return graph


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that importing a module loads."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen
