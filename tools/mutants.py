"""How many small faults the tests notice: `python tools/mutants.py --sample 100 --seed 0 [folder or file …]`.

Cosmic Ray changes one thing at a time in a copy of the package, an operator, a comparison, a number, a condition, and
the tests beside it that import the changed module are run until one fails. All mutants would take days, so a seeded
sample is drawn; survivors are printed, with what was changed. Ends with 1 where fewer than 85 % are killed.
"""

import argparse
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
def tests_of(module: str) -> tuple[str, ...]:
    """The test files of a module: those of its name that import it; else those of its folder that do; else all others.

    Whoever changes a module looks there first, and a mutant costs half a minute instead of five. A fault that only
    tests elsewhere notice counts as survived, so the share is a lower bound.
    """
    folder, _, name = module.removesuffix(".py").replace("/", ".").rpartition(".")
    pattern = re.compile(rf"meshgan\.{folder}\.{name}\b|from meshgan\.{folder} import [^\n]*\b{name}\b")
    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))
             if pattern.search(path.read_text("utf-8"))]  # fmt: skip
    beside = [file for file in files if file.startswith(f"tests/{folder}/")]
    named = [file for file in beside if f"/test_{name}" in file]
    return tuple(named or beside or files)


def run(copy: Path, tests: tuple[str, ...]) -> str:
    """ "passed", "failed" or "hung"."""
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
                                "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    options = ("-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu")
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return "hung"
    return "failed" if done.returncode else "passed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="or files, below src/meshgan")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop drawing after so long")
    given = parser.parse_args()
    os.nice(19 - os.nice(0))  # it takes hours; whoever sits at the machine goes first
    everything = mutants(tuple(given.folders))
    drawn = random.Random(given.seed).sample(everything, min(given.sample, len(everything)))
    killed, survived, sound, clock = 0, 0, {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "demo", "__pycache__"))
        for number, mutant in enumerate(drawn, start=1):
            if time.monotonic() - clock > 60 * given.minutes:
                break
            tests, path = tests_of(mutant.module), copy / "src/meshgan" / mutant.module
            if mutant.module not in sound:
                sound[mutant.module] = bool(tests) and run(copy, tests) == "passed"
            source = path.read_text("utf-8")
            changed = mutant.of(source)
            if changed is None or not sound[mutant.module]:
                print(f"{number:4} {mutant.module}: passed over; its tests do not pass unchanged, or there are none")
                continue
            path.write_text(changed, "utf-8")
            end = run(copy, tests)
            path.write_text(source, "utf-8")
            killed, survived = killed + (end != "passed"), survived + (end == "passed")
            print(f"{number:4} {mutant.module}: {'SURVIVED' if end == 'passed' else end}", flush=True)
            if end == "passed":
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
                print("\n".join(f"       {line}" for line in list(lines)[2:]), flush=True)
    share = killed / max(killed + survived, 1)
    print(f"killed {killed} of {killed + survived} ({share:.0%}); {len(everything):,} mutants, seed {given.seed}")
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
