"""A model's generator as an ONNX file: codes in, vertices out, for programs without Python or torch.

    input   code       (batch, D) float32
    output  vertices   (batch, V, 3) float32, millimetres
    output  triangles  (F, 3) int64, always the template's

The metadata holds the model card (`card`), the unit (`unit`) and the sampler (`sampler`): how codes are drawn.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.errors import MeshganError, UsageError, missing_extra
from meshgan.model.load import Model
from meshgan.nn import paths
from meshgan.storage import atomic_file

TOLERANCE_MM = 1e-4  # between torch and onnxruntime
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Network(nn.Module):
    """Codes (B, D) to vertices (B, V, 3) in mm, and the triangles."""

    connectivity: Tensor  # not `triangles`: exporters then give the input and the output one name

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.faces = model.network()
        self.register_buffer("connectivity", torch.from_numpy(model.template.triangles.copy()))

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.faces(code), self.connectivity.clone()


def export_onnx(model: Model, path: Path, opset: int | None = None) -> None:
    """Write the generator as ONNX with any batch size, and check it: onnxruntime must agree with the model to 1e-4 mm.

    `opset` is the version of the operators, for engines that do not know the latest; by default the exporter's own.
    Raises `UsageError` without the extra `export` or for an opset that cannot be had, `MeshganError` if the exported
    network computes something else; then nothing is written.
    """
    if not all(find_spec(name) for name in NEEDED):
        raise missing_extra("exporting", "export")
    from onnx.defs import onnx_opset_version

    if opset is not None and opset > onnx_opset_version():  # the exporter would count up to it
        raise UsageError(f"opset {opset} is not known yet; leave it out, or give one up to {onnx_opset_version()}.")
    with _quiet(), torch.no_grad(), paths.forced("gather"):
        program = torch.onnx.export(
            _Network(model).eval(),
            (torch.zeros(2, model.code_size),),
            dynamo=True,
            input_names=["code"],
            output_names=["vertices", "triangles"],
            dynamic_shapes={"code": {0: torch.export.Dim("batch")}},
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    if opset is not None and program.model.opset_imports.get("") != opset:
        raise UsageError(f"this network cannot be written in opset {opset}; leave opset out, or give a newer one.")
    program.model.metadata_props.update(_metadata(model))
    with atomic_file(path) as partial:
        program.save(partial)
        _verify(partial, path, model)


def _metadata(model: Model) -> dict[str, str]:
    """The file takes codes as they are decoded: a mapping network before it becomes N(μ, Σ), if one was fitted, and so
    does a mixture."""
    samplers = model.samplers
    normal = "none" if samplers.mean is None else "fitted-normal"
    mixed = samplers.other is not None and samplers.mean is not None
    kind = normal if samplers.mapping is not None or mixed else samplers.default
    sampler: dict[str, Any] = {"kind": kind}
    if kind == "fitted-normal" and samplers.mean is not None and samplers.root is not None:
        sampler |= {"code": "mean + normal @ root", "mean": samplers.mean.tolist(), "root": samplers.root.tolist()}
    return {"card": model.card.model_dump_json(), "unit": "mm", "sampler": json.dumps(sampler)}


def _verify(file: Path, path: Path, model: Model) -> None:
    """Compare with the model on batches of two sizes: exporters have been wrong without a word."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    except Exception as refusal:  # there is no common class of its errors
        raise MeshganError(f"{path}: onnxruntime refuses the exported network; please report this.") from refusal
    for count in (1, 3):
        codes = model.codes(count, seed=count)
        vertices, triangles = session.run(["vertices", "triangles"], {"code": codes})
        error = float(np.abs(vertices - model.decode(codes)).max())
        if not error <= TOLERANCE_MM or not np.array_equal(triangles, model.template.triangles):
            raise MeshganError(f"{path}: the exported network is off by {error:.1g} mm; please report this.")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter has opinions on packages that are not installed and on its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
