"""Results that are remembered on disk, and the one way to make the keys that they are found by.

A remembered result is only as good as its key: it names everything that the result depends on, the data (all of its
bytes, and its split: `FaceSet.fingerprint`), the model's content, the parameters, and the code that computes it, by
`code_of`. What is found under another key, or is not whole, is no result: it is computed anew. What cannot be written
is returned all the same, and said once.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from meshgan.errors import MeshganError
from meshgan.reading import read_bytes
from meshgan.storage import atomic_file

SOURCE = Path(__file__).parent
MOST = 2**31  # bytes of one result
HEX = 64  # digits of the SHA-256 that stands before a result

Result = TypeVar("Result")
_told: set[Path] = set()  # folders of which it was said that they cannot be written


def key_of(**depends: Any) -> str:
    """The key (16 hex digits) of a result that depends on these named values: text, numbers, lists of them, None."""
    text = json.dumps(depends, sort_keys=True, allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a key cannot be made of {type(value).__name__}.")


@lru_cache(maxsize=64)
def code_of(*places: str) -> str:
    """A hash of the code in folders and files of the package ("evaluation", "data/faceset.py"), without its comments.

    Comments, docstrings and layout do not count: what they say of a result does not change it.
    """
    digest = hashlib.sha256()
    for place in sorted(places):
        path = SOURCE / place
        found = sorted([*path.rglob("*.py"), *path.rglob("*.cpp"), *path.rglob("*.h")]) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"there is no code in {place}")
        for file in found:
            digest.update(file.relative_to(SOURCE).as_posix().encode())
            digest.update(_meaning(file))
    return digest.hexdigest()


def _meaning(path: Path) -> bytes:
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree).encode()


@lru_cache(maxsize=1)
def _private_folder() -> Path:
    return Path(mkdtemp(prefix="meshgan-"))


def cache_folder() -> Path:
    """Where results are kept that do not belong to a folder of the user's; it may be deleted at any time."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody has a home here; what is remembered ends with the process
        home = _private_folder()
    return home / "meshgan"


def remember(folder: Path, name: str, key: str, kind: type[Result], compute: Callable[[], Result]) -> Result:
    """The result of `compute`, kept as JSON in `folder` under `name` and `key`; `kind` is what pydantic knows it by."""
    path, adapter = folder / f"{name}-{key}.json", TypeAdapter(kind)
    data = _whole(path)
    if data is not None:
        try:
            return adapter.validate_json(data)
        except (ValidationError, RecursionError):
            pass
    result = compute()
    _write(path, adapter.dump_json(result, indent=2))
    return result


def remember_array(
    folder: Path, name: str, key: str, shape: tuple[int, ...], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The same for an array of float32 of a known shape."""
    path = folder / f"{name}-{key}.f4"
    data = _whole(path)
    if data is not None and len(data) == 4 * int(np.prod(shape)):
        return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    result = np.ascontiguousarray(compute(), np.float32)
    _write(path, result.astype("<f4").tobytes())
    return result


def _whole(path: Path) -> bytes | None:
    """What stands behind the sum in a file, if the sum is right; None if there is no such file, or it is damaged."""
    try:
        data = read_bytes(path, MOST)
    except MeshganError:
        return None
    sum_of, content = data[:HEX], data[HEX + 1 :]
    return content if sum_of == hashlib.sha256(content).hexdigest().encode() else None


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_file(path) as partial, partial.open("wb") as stream:
            stream.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
            stream.write(content)
    except MeshganError as error:
        if path.parent not in _told:
            _told.add(path.parent)
            print(f"meshgan: {error} What was computed is used, but not remembered.", file=sys.stderr)
