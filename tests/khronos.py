"""The Khronos glTF validator, where it is installed: npm install gltf-validator, and NODE_PATH to find it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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
