"""GLB files as others see them: the Khronos validator, where node finds it, and a plain reader of accessors."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def _installed() -> bool:
    node = shutil.which("node")
    asked = [node or "", "-e", "require('gltf-validator')"]
    return bool(node) and not subprocess.run(asked, capture_output=True, env=os.environ, check=False).returncode


needs_validator = pytest.mark.skipif(
    not _installed(), reason="needs node with gltf-validator on NODE_PATH: npm install gltf-validator"
)


def issues_of(path: Path) -> dict[str, Any]:
    """What the validator says of a GLB file: numErrors, numWarnings, …, messages."""
    run = subprocess.run(["node", "-e", VALIDATE, str(path)], capture_output=True, text=True, check=True)
    issues: dict[str, Any] = json.loads(run.stdout)
    return issues


def accessor(gltf: Any, index: int) -> NDArray[Any]:
    """The values (N, width) of an accessor, dense or sparse, by pygltflib's structures and numpy alone."""
    found = gltf.accessors[index]
    kind = {5120: "<i1", 5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[found.type]

    def view(number: int, offset: int, count: int, width: int, kind: str) -> NDArray[Any]:
        start = (gltf.bufferViews[number].byteOffset or 0) + (offset or 0)
        return np.frombuffer(gltf.binary_blob(), kind, count * width, start).reshape(count, width)

    values = np.zeros((found.count, width), kind[found.componentType])
    if found.bufferView is not None:
        values = view(found.bufferView, found.byteOffset, found.count, width, kind[found.componentType]).copy()
    if (sparse := found.sparse) is not None:
        rows = view(
            sparse.indices.bufferView, sparse.indices.byteOffset, sparse.count, 1, kind[sparse.indices.componentType]
        )
        assert (np.diff(rows[:, 0].astype(int)) > 0).all()  # or the file is not valid
        values[rows[:, 0]] = view(
            sparse.values.bufferView, sparse.values.byteOffset, sparse.count, width, kind[found.componentType]
        )
    return np.maximum(values / np.iinfo(values.dtype).max, -1) if found.normalized else values
