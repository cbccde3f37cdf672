"""How many small faults the tests notice: `python tools/mutants.py --sample 100 --seed 0 [folder or file …]`.

Cosmic Ray changes one thing at a time in a copy of the package, an operator, a comparison, a number, a condition, and
the tests nearest to the changed module are run until one fails that passes without the change. All mutants would take
days, so a seeded sample is drawn; survivors are printed, with what was changed. Ends with 1 where fewer than 85 % are
killed.
"""

import argparse
import ast
import compileall
import difflib
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
FOLDERS = ("geometry", "nn", "training", "evaluation")
LEAST = 0.85
PATIENCE = 900  # seconds after which a mutant is taken to hang, and with it to be noticed
SWAPS = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul", "Mod": "Mul", "Pow": "Mul"}
TURNS = {"Eq": ["NotEq"], "NotEq": ["Eq"], "Lt": ["GtE", "LtE"], "LtE": ["Gt", "Lt"], "Gt": ["LtE", "GtE"],
         "GtE": ["Lt", "Gt"], "Is": ["IsNot"], "IsNot": ["Is"]}  # fmt: skip
OTHERS = ("NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
          "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "AddNot", "ReplaceUnaryOperator_Delete_Not",
          "ReplaceUnaryOperator_Delete_USub", "ZeroIterationForLoop")  # fmt: skip


LARGE = ("torch", "numba", "scipy.sparse.linalg", "scipy.spatial", "scipy.optimize", "matplotlib.pyplot", "pydantic",
         "safetensors.numpy", "PIL.Image", "rich.progress", "typer", "trimesh", "point_cloud_utils")  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the number `occurrence` of those that an operator can make in a module."""

    module: str  # below src/meshgan
    operator: str
    occurrence: int

    def of(self, source: str) -> str | None:
        """The changed source."""
        return mutate_code(source, get_operator(self.operator)(), self.occurrence)


def operators() -> list[str]:
    """Those of Cosmic Ray that make likely mistakes; what a type annotation could not survive is no test of tests."""
    wanted = {f"ReplaceBinaryOperator_{one}_{other}" for one, other in SWAPS.items()}
    wanted |= {f"ReplaceComparisonOperator_{one}_{other}" for one, others in TURNS.items() for other in others}
    return [name for name in operator_names() if name.removeprefix("core/") in wanted | set(OTHERS)]


def mutants(folders: tuple[str, ...]) -> list[Mutant]:
    """All that there are, in an order that does not depend on the machine."""
    found = []
    places = [ROOT / "src/meshgan" / folder for folder in folders]
    paths = {path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))}
    for path in sorted(paths):
        tree, module = get_ast(path.read_text("utf-8")), path.relative_to(ROOT / "src/meshgan").as_posix()
        for name in operators():
            operator = get_operator(name)()
            count = sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(tree))
            found += [Mutant(module, name, number) for number in range(count)]
    return found


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The package's modules that a file imports, as dotted names below meshgan."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("meshgan"):
            below = node.module.removeprefix("meshgan").removeprefix(".")
            found |= {below} | {f"{below}.{alias.name}".removeprefix(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("meshgan.") for alias in node.names if alias.name.startswith("meshgan.")}
    return frozenset(found)


@cache
def tests_of(module: str) -> tuple[tuple[str, ...], ...]:
    """The test files of a module, nearest first, in groups that are run in turn until one of them fails.

    Nearest are those of the module's name, then those of its folder that import it, then those of its folder that
    import what imports it; if there are none, all others that import it. Whoever changes a module looks there; a fault
    that only tests farther away notice counts as survived, so the share is a lower bound.
    """
    folder, _, name = module.removesuffix(".py").replace("/", ".").rpartition(".")
    dotted = f"{folder}.{name}"
    sources = ROOT / "src/meshgan"
    users = {path.relative_to(sources).with_suffix("").as_posix().replace("/", ".")
             for path in sources.rglob("*.py") if dotted in imports_of(path)}  # fmt: skip
    direct, beside, indirect, others = [], [], [], []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file, known = path.relative_to(ROOT).as_posix(), imports_of(path)
        own = file.startswith(f"tests/{folder}/")
        if own and path.stem.startswith(f"test_{name}"):
            direct.append(file)
        elif dotted in known:
            (beside if own else others).append(file)
        elif own and known & users:
            indirect.append(file)
    groups = (direct, beside, indirect) if direct or beside or indirect else (others,)
    return tuple(tuple(group) for group in groups if group)


def run(copy: Path, tests: tuple[str, ...], broken: Iterable[str] = ()) -> str | None:
    """None where all pass but for those that are `broken` anyway; else the test that failed first, or "hung".

    In a fork of this process, which has the large libraries already: loading them takes longer than most tests.
    """
    said = copy / "said.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(_tested(copy, tests, broken, said))
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung"
        time.sleep(0.1)
    if os.waitstatus_to_exitcode(ended[1]) in (0, 5):  # 5: none was collected, since all are slow
        return None
    first = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said.read_text("utf-8", "replace"), re.MULTILINE)
    return first[1] if first else tests[0]


def _tested(copy: Path, tests: tuple[str, ...], broken: Iterable[str], said: Path) -> int:
    """The exit status of the tests, run in this process, which writes what they say into a file."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ["PYTHONPATH"] = str(copy / "src")
    os.chdir(copy)
    sys.path.insert(0, str(copy / "src"))
    options = ("-q", "-x", "-rfE", "-p", "no:cacheprovider", "-m", "not slow and not gpu")
    status = int(pytest.main([*options, *tests, *(f"--deselect={test}" for test in broken)]))
    sys.stdout.flush()
    return status


def noticed(copy: Path, mutant: Mutant, broken: set[str]) -> tuple[str | None, str, str]:
    """The test that fails with a mutant and not without it, if there is one; the source, and what it was changed to.

    Tests that fail without it, too, are added to those that are `broken`.
    """
    path = copy / "src/meshgan" / mutant.module
    source = path.read_text("utf-8")
    changed = mutant.of(source)
    assert changed is not None
    for tests in tests_of(mutant.module):
        while True:
            path.write_text(changed, "utf-8")
            failed = run(copy, tests, broken)
            path.write_text(source, "utf-8")
            if failed is None:
                break
            if failed == "hung" or run(copy, (failed,)) is None or failed in broken:
                return failed, source, changed
            print(f"     {failed} fails without any change", flush=True)
            broken.add(failed)
    return None, source, changed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="or files, below src/meshgan")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=1, help="the number in the sample to begin with")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop drawing after so long")
    parser.add_argument("--nice", type=int, help="how much others go first; 19 unless told")
    given = parser.parse_args()
    os.nice(19 - os.nice(0) if given.nice is None else given.nice)  # it takes hours: others at the machine go first
    everything = mutants(tuple(given.folders))
    drawn = random.Random(given.seed).sample(everything, min(given.sample, len(everything)))
    killed, survived, broken, clock = 0, 0, set[str](), time.monotonic()
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for library in LARGE:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "demo", "__pycache__"))
        compileall.compile_dir(copy / "src", quiet=2)
        for number, mutant in list(enumerate(drawn, start=1))[given.start - 1 :]:
            if time.monotonic() - clock > 60 * given.minutes:
                break
            if mutant.of((ROOT / "src/meshgan" / mutant.module).read_text("utf-8")) is None:
                continue  # the operator makes no change there after all
            failed, source, changed = noticed(copy, mutant, broken)
            killed, survived = killed + (failed is not None), survived + (failed is None)
            print(f"{number:4} {mutant.module}: {'SURVIVED' if failed is None else failed}", flush=True)
            if failed is None:
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
                print("\n".join(f"       {line}" for line in list(lines)[2:]), flush=True)
    share = killed / max(killed + survived, 1)
    print(f"killed {killed} of {killed + survived} ({share:.0%}); {len(everything):,} mutants, seed {given.seed}")
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
