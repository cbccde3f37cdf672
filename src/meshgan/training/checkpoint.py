"""The run folder: what training writes, so that a run can be stopped at any moment and goes on as if it had not.

RUN/recipe.toml                     the recipe with every default spelled out
RUN/checkpoint-<faces>.safetensors  the last two checkpoints
RUN/stats.jsonl                     one JSON object per line
RUN/samples/faces-seen-<faces>.png  the same codes again and again, decoded by the growing model
RUN/machine.txt                     where it ran, one line for each machine
RUN/model/                          the finished model, see `model_folder`
"""

import hashlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from meshgan.errors import MeshganError, UsageError
from meshgan.machine import machine
from meshgan.storage import atomic_file, disk_errors, remove_file, set_aside, sweep
from meshgan.training.recipe import Recipe, differences, parse_recipe, recipe_toml

KEEP = 2  # checkpoints; the older one stands in for a damaged newer one


class Identity(BaseModel):
    """What must be the same for a run to be continued."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str  # TOML
    data: str  # fingerprint of the FaceSet
    seed: int


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Identity
    step: int
    digest: str  # SHA-256 of all the rest


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps."""

    run: Identity
    step: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    def check(self, resume: bool) -> None:
        """Raise `UsageError` if the folder holds something else, or a run while `resume` is off."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; choose another name for the run folder.")
        if self.path.is_dir() and any(file.suffix != ".partial" for file in self.path.iterdir()):
            if not (self.path / "recipe.toml").is_file():
                raise UsageError(f"{self.path} is not a run folder (it has no recipe.toml); choose another name.")
            if not resume:
                raise UsageError(f"{self.path} exists already: use --resume to go on with it, or choose another name.")

    def claim(self, recipe: Recipe) -> None:
        """Write the recipe of a run that begins, and remove what a killed one left half-written."""
        sweep(self.path)
        if not self.checkpoints():
            with atomic_file(self.path / "recipe.toml") as partial:
                partial.write_text(recipe_toml(recipe), encoding="utf-8")

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self.path.glob("checkpoint-*.safetensors"))

    def save(self, checkpoint: Checkpoint, faces_seen: int) -> Path:
        """Write a checkpoint, then remove all but the last two."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        header = _Header(
            run=checkpoint.run, step=checkpoint.step, digest=_digest(checkpoint.run, checkpoint.step, tensors)
        )
        target = self.path / f"checkpoint-{faces_seen:010d}.safetensors"
        with atomic_file(target) as partial:
            partial.write_bytes(safetensors.torch.save(tensors, {"meshgan": header.model_dump_json()}))
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
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))

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
        with disk_errors(path), path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check one file. Raises `MeshganError` if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = _Header.model_validate_json(file.metadata()["meshgan"], strict=True)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise MeshganError(f"{path} is damaged.") from error
    if _digest(header.run, header.step, tensors) != header.digest:
        raise MeshganError(f"{path} is damaged.")
    return Checkpoint(header.run, header.step, tensors)


def check_same_run(path: Path, old: Identity, new: Identity) -> None:
    """Raise `UsageError` with what differs if a run cannot be continued as asked."""
    if old.recipe != new.recipe:
        changed = differences(_parse(path, old.recipe), _parse(path, new.recipe))
        raise UsageError(f"{path} was started with another recipe: {', '.join(changed)}; choose another --out for it.")
    if old.data != new.data:
        raise UsageError(f"{path} was started with other data; give the FaceSet that it was started with.")
    if old.seed != new.seed:
        raise UsageError(f"{path} was started with --seed {old.seed}, not {new.seed}.")


def _parse(path: Path, text: str) -> Recipe:
    return parse_recipe(tomllib.loads(text), str(path))


def _digest(run: Identity, step: int, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{run.model_dump_json()}{step}".encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            return
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            return
        yield line
