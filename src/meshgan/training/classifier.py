"""Training of the expression classifier (the paper's section 4.3), and its folder on disk.

FOLDER/stats.jsonl               one line per epoch: loss and accuracies
FOLDER/checkpoint-*.safetensors  weights and the optimiser's state after the last full epochs, for a resumed run
FOLDER/model/model.json          the classes, in the order of the outputs, and what it was trained on
FOLDER/model/weights.safetensors, template.ply, hierarchy.npz
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from meshgan.arrays import Integers, Singles
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.spline import ExpressionClassifier
from meshgan.progress import track
from meshgan.storage import atomic_folder, disk_errors
from meshgan.training.checkpoint import Checkpoint, Identity, RunFolder

LABEL = "expression"  # the column of a FaceSet that is learned


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train with Adam."""

    epochs: int
    learning_rate: float
    batch: int = 16


PAPER = Schedule(epochs=80, learning_rate=1e-4)


class Card(BaseModel):
    """`model.json` of a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "expression-classifier"
    classes: tuple[str, ...]
    data: str  # name of the FaceSet
    schedule: Schedule


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with the names of its outputs, for faces of `hierarchy`'s template."""

    network: ExpressionClassifier
    hierarchy: Hierarchy
    card: Card

    @torch.no_grad()
    def probabilities(self, vertices: Singles, batch: int = 64) -> Singles:
        """Faces (N, V, 3) in mm to the probability (N, classes) of each class."""
        if vertices.shape[1:] != self.hierarchy.levels[0].mesh.vertices.shape:
            raise UsageError(f"faces of shape {vertices.shape[1:]} are not of the classifier's template.")
        parts = [
            torch.softmax(self.network(torch.tensor(vertices[i : i + batch])), dim=1)
            for i in range(0, len(vertices), batch)
        ]
        return torch.cat(parts).numpy()

    def predict(self, vertices: Singles) -> NDArray[np.str_]:
        """The likeliest class (N,) of each face (N, V, 3) in mm."""
        return np.array(self.card.classes)[self.probabilities(vertices).argmax(1)]

    def save(self, folder: Path) -> None:
        """Write a model folder, which must not exist yet."""
        with atomic_folder(folder) as partial:
            (partial / "model.json").write_text(self.card.model_dump_json(indent=2) + "\n")
            save_file(self.network.state_dict(), partial / "weights.safetensors")
            write_mesh(partial / "template.ply", self.hierarchy.levels[0].mesh)
            self.hierarchy.save(partial / "hierarchy.npz")

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """Read a run or model folder. Raises `UsageError` if it is none, `MeshganError` if it is damaged."""
        folder = Path(folder)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        if not (folder / "model.json").is_file():
            raise UsageError(f"{folder} is not a classifier's folder (it has no model.json).")
        try:
            card = Card.model_validate_json((folder / "model.json").read_text())
            hierarchy = Hierarchy.load(folder / "hierarchy.npz")
            network = ExpressionClassifier(hierarchy, len(card.classes))
            network.load_state_dict(load_file(folder / "weights.safetensors"))
        except (OSError, ValidationError, SafetensorError, RuntimeError) as error:
            raise MeshganError(f"{folder} is damaged; train the classifier again.") from error
        return cls(network.eval(), hierarchy, card)


def train_classifier(
    faces: FaceSet, out: Path, schedule: Schedule = PAPER, seed: int = 0, resume: bool = False
) -> Classifier:
    """Train on the training part of `faces`, whose label column `expression` names the classes.

    Each epoch's order depends on `seed` and the epoch alone, so a resumed run ends bit for bit like one that was
    never stopped. Accuracy on the test part is logged after each epoch and never used.
    """
    if LABEL not in faces.labels:
        raise UsageError(f"{faces.path} has no label column '{LABEL}' to learn.")
    folder = RunFolder(out)
    if (out / "model").exists() or (folder.checkpoints() and not resume):
        raise UsageError(f"{out} holds a classifier already; choose another folder.")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    classes, targets = np.unique(faces.labels[LABEL], return_inverse=True)
    hierarchy = Hierarchy.cached(faces.template)
    torch.manual_seed(seed)
    network = ExpressionClassifier(hierarchy, len(classes))
    optimiser = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    card = Card(classes=tuple(classes.tolist()), data=faces.card.name, schedule=schedule)
    run = Identity(recipe=card.model_dump_json(), data=faces.fingerprint, seed=seed)
    start = _restore(folder, run, network, optimiser)
    classifier = Classifier(network, hierarchy, card)

    for epoch in range(start, schedule.epochs):
        loss, accuracy = _epoch(network, optimiser, faces, targets, schedule, seed, epoch)
        tested = (classifier.predict(faces.vertices[faces.split.test]) == faces.labels[LABEL][faces.split.test]).mean()
        line = {"step": epoch + 1, "loss": loss, "train_accuracy": accuracy, "test_accuracy": float(tested)}
        folder.append_line(line)
        checkpoint = Checkpoint(run, epoch + 1, _state(network, optimiser))
        folder.save(checkpoint, (epoch + 1) * len(faces.split.train))

    network.eval()
    classifier.save(out / "model")
    return classifier


def _epoch(
    network: ExpressionClassifier,
    optimiser: torch.optim.Adam,
    faces: FaceSet,
    targets: Integers,
    schedule: Schedule,
    seed: int,
    epoch: int,
) -> tuple[float, float]:
    """One pass over the training part; its mean loss and the accuracy on the way."""
    order = np.random.default_rng([seed, epoch]).permutation(faces.split.train)
    batches = [order[i : i + schedule.batch] for i in range(0, len(order), schedule.batch)]
    losses, hits = 0.0, 0
    for rows in track(batches, f"classifier, epoch {epoch + 1} of {schedule.epochs}", len(order), schedule.batch):
        logits = network(torch.from_numpy(faces.vertices[rows]))
        target = torch.from_numpy(targets[rows])
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses += loss.item() * len(rows)
        hits += int((logits.argmax(1) == target).sum())
    return losses / len(order), hits / len(order)


def _state(network: ExpressionClassifier, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        tensors |= {f"{part}.{name}": value for part, value in optimiser.state[parameter].items()}
    return tensors


def _restore(folder: RunFolder, run: Identity, network: ExpressionClassifier, optimiser: torch.optim.Adam) -> int:
    """Put the newest checkpoint's state back, if there is one; returns the number of epochs done."""
    checkpoint = folder.latest()
    if checkpoint is None:
        return 0
    if checkpoint.run != run:
        raise UsageError(f"{folder.path} was started with other data, schedule or seed; choose another folder.")
    for name, parameter in network.named_parameters():
        parameter.data.copy_(checkpoint.tensors[f"network.{name}"])
        parts = ("step", "exp_avg", "exp_avg_sq")
        optimiser.state[parameter] = {part: checkpoint.tensors[f"{part}.{name}"] for part in parts}
    folder.keep_lines(checkpoint.step)
    return checkpoint.step
