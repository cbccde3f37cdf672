"""The run folder: what training writes, so that a run can be stopped at any moment and goes on as if it had not.

RUN/recipe.toml                     the recipe with every default spelled out
RUN/checkpoint-<faces>.safetensors  the last two checkpoints
RUN/stats.jsonl                     one JSON object per line
RUN/samples/faces-seen-<faces>.png  the same codes again and again, decoded by the growing model
RUN/machine.txt                     where it ran, one line for each machine
RUN/model/                          the finished model, see `model_folder`
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.machine import machine
from meshgan.model.load import load_model
from meshgan.reading import check_file, parse_json, parse_toml, read_bytes
from meshgan.storage import alone_in, atomic_file, disk_errors, remove_file, require_replaceable, set_aside, sweep
from meshgan.training import Later
from meshgan.training.classification import Classification
from meshgan.training.recipe import Recipe, differences, load_recipe, parse_recipe, recipe_toml

if TYPE_CHECKING:
    import safetensors.torch as tensor_files
    import torch
    from torch import Tensor

    from meshgan.model import classifier
else:
    torch, tensor_files = Later("torch"), Later("safetensors.torch")
    classifier = Later("meshgan.model.classifier")

MOST_LINES = 2**28  # bytes of stats.jsonl that are read
MOST_CHECKPOINT = 2**31  # bytes; those of the largest recipe on 50,000 vertices are a quarter of it
KEEP = 2  # checkpoints; the older one stands in for a damaged newer one


class Identity(BaseModel):
    """What must be the same for a run to be continued."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Annotated[str, Field(max_length=100_000)]  # TOML
    data: Annotated[str, Field(max_length=200)]  # fingerprint of the FaceSet
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    init: Annotated[str, Field(max_length=200)] = ""  # digest of the weights of the model that it began with, if any


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Identity
    step: Annotated[int, Field(ge=0, le=10**15)]
    digest: str  # SHA-256 of all the rest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after `step` steps."""

    run: Identity
    step: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @contextmanager
    def ready(self, resume: bool = False, leads: bool = True) -> Iterator[None]:
        """Keep other processes out of the folder, which is made, and clear away what a killed run left half-written.

        Raises `UsageError` if the folder holds something else, or a run while `resume` is off, or if another process
        trains in it. Of several processes the one that `leads` does this for all.
        """
        if not leads:
            yield
            return
        self.check(resume)
        with alone_in(self.path):
            sweep(self.path / "samples")
            yield

    def check(self, resume: bool) -> None:
        """Raise `UsageError` if the folder holds something else, or a run while `resume` is off."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; choose another name for the run folder.")
        if self.path.is_dir() and any(file.suffix != ".partial" for file in self.path.iterdir()):
            if not (self.path / "recipe.toml").is_file():
                raise UsageError(f"{self.path} is not a run folder (it has no recipe.toml); choose another name.")
            if not resume:
                raise UsageError(f"{self.path} exists already: `resume=True` goes on with it, or choose another name.")

    def has_model(self) -> bool:
        """Whether the run's model is there and whole; one that is not may be made again."""
        folder = self.path / "model"
        try:
            classifier.Classifier.load(folder) if self._classifies() else load_model(folder)
        except MeshganError as error:
            if folder.exists():
                print(f"meshgan: {error} It is made again.", file=sys.stderr)
                self._make_room(folder)
            return False
        return True

    def recipe(self) -> Recipe:
        """What recipe.toml says. Raises `UsageError` if it is missing or damaged."""
        return load_recipe(self.path / "recipe.toml")

    def _classifies(self) -> bool:
        return isinstance(self.recipe().objective, Classification)

    def _make_room(self, folder: Path) -> None:
        """Set a model folder aside unless its files, as far as they are there, are as they were written."""
        try:
            require_replaceable(folder, keep=lambda path: False)
        except MeshganError:
            set_aside(folder)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.toml, also where a run goes on: it says what the run does, whatever was edited meanwhile."""
        text = recipe_toml(recipe)
        path = self.path / "recipe.toml"
        if not path.is_file() or path.read_bytes() != text.encode():
            with atomic_file(path) as partial:
                partial.write_text(text, encoding="utf-8")

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self.path.glob("checkpoint-*.safetensors"))

    def save(self, checkpoint: Checkpoint, faces_seen: int) -> Path:
        """Write a checkpoint, then remove all but the last two. On a full disk the older one of two makes room."""
        try:
            return self._save(checkpoint, faces_seen)
        except DiskError:
            if len(kept := self.checkpoints()) < KEEP:
                raise
            remove_file(kept[0])
            return self._save(checkpoint, faces_seen)

    def _save(self, checkpoint: Checkpoint, faces_seen: int) -> Path:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        header = _Header(
            run=checkpoint.run, step=checkpoint.step, digest=_digest(checkpoint.run, checkpoint.step, tensors)
        )
        target = self.path / f"checkpoint-{faces_seen:010d}.safetensors"
        with atomic_file(target) as partial:
            partial.write_bytes(tensor_files.save(tensors, {"meshgan": header.model_dump_json()}))
        for old in self.checkpoints()[:-KEEP]:
            remove_file(old)
        return target

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are named and set aside."""
        for path in reversed(self.checkpoints()):
            try:
                read_checkpoint(path)
                return path
            except MeshganError as error:
                print(f"meshgan: {error} Falling back to the one before.", file=sys.stderr)
                set_aside(path)
        return None

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole."""
        path = self.newest()
        return read_checkpoint(path) if path else None

    def lines(self) -> list[dict[str, Any]]:
        """The lines of stats.jsonl up to the first that is not whole."""
        return list(_whole_lines(self.path / "stats.jsonl"))

    def keep_lines(self, step: int) -> None:
        """Drop the lines of stats.jsonl that steps after `step` wrote: those steps will come again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        with atomic_file(self.path / "stats.jsonl") as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def note_machine(self, device: torch.device) -> None:
        """Add a line to machine.txt, unless the last one says the same: where the run was started or continued."""
        path = self.path / "machine.txt"
        line = machine() + (f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "")
        with disk_errors(path), path.open("a+", encoding="utf-8") as stream:
            stream.seek(0)
            if stream.read().splitlines()[-1:] != [line]:
                stream.write(line + "\n")

    def append_line(self, line: Mapping[str, Any]) -> None:
        """Add one line to stats.jsonl."""
        path = self.path / "stats.jsonl"
        with disk_errors(path), path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check one file. Raises `MeshganError` if it is damaged."""
    try:
        check_file(path, MOST_CHECKPOINT)
        with safe_open(path, framework="pt") as file:
            header = _Header.model_validate_json(file.metadata()["meshgan"], strict=True)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        kinds = (torch.float32, torch.float64, torch.int64)
        whole = all(tensor.dtype in kinds for tensor in tensors.values())
        whole = whole and _digest(header.run, header.step, tensors) == header.digest
    except (
        MeshganError,
        SafetensorError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise MeshganError(f"{path} is damaged.") from error
    if not whole:
        raise MeshganError(f"{path} is damaged.")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise MeshganError(f"{path} holds what is no number.")
    return Checkpoint(header.run, header.step, tensors)


def check_same_run(path: Path, old: Identity, new: Identity) -> None:
    """Raise `UsageError` with what differs if a run cannot be continued as asked; how long it is may differ."""
    if old.recipe != new.recipe:
        before, after = _parse(path, old.recipe), _parse(path, new.recipe)
        length = replace(before.schedule, epochs=after.schedule.epochs, faces=after.schedule.faces)
        if (lengthened := replace(before, schedule=length)) != after:
            changed = ", ".join(differences(lengthened, after))
            raise UsageError(f"{path} was started with another recipe: {changed}; choose another `out` for it.")
    if old.data != new.data:
        raise UsageError(f"{path} was started with other data; give the FaceSet that it was started with.")
    if old.seed != new.seed:
        raise UsageError(f"{path} was started with `seed={old.seed}`, not {new.seed}.")
    if old.init != new.init:
        began = "from a model" if old.init else "without a model to begin with"
        raise UsageError(f"{path} was started {began}; give the same `init` as then.")


def _parse(path: Path, text: str) -> Recipe:
    return parse_recipe(parse_toml(text, str(path)), str(path))


def _digest(run: Identity, step: int, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{run.model_dump_json()}{step}".encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return digest.hexdigest()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for text in read_bytes(path, MOST_LINES).decode("utf-8", "replace").split("\n"):
        try:
            line = parse_json(text, str(path))
        except MeshganError:
            return
        if not _is_line(line):
            return
        yield line


def _is_line(line: Any) -> bool:
    """Whether a value is what `append_line` writes: numbers by names, the steps and faces whole ones."""
    if not isinstance(line, dict) or not all(isinstance(line.get(name), int) for name in ("step", "faces")):
        return False
    return "seconds" in line and all(
        isinstance(value, int | float) and abs(value) < sys.maxsize and math.isfinite(value) for value in line.values()
    )
