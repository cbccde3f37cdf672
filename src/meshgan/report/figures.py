"""The paper's figures on open data, from the same corpora and runs as the tables, MeshGAN beside CoMA.

OUT/figures/FIGURE.png, for figure 7 one for each method; figure 6 also OUT/figure6.json.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import UsageError
from meshgan.evaluation.recognition import FACTORS, Curve, confusion, extrapolation_hits, recognition_curve
from meshgan.evaluation.semantics import chosen
from meshgan.model.classifier import Classifier
from meshgan.model.load import Model, load_model
from meshgan.report.corpora import classifier_corpus
from meshgan.report.paper_figures import (
    Models,
    exaggerations,
    expression_grid,
    recognition_plot,
    reconstructions,
    representative,
)
from meshgan.report.reproduce import TABLES, corpus_of, home_of, make_model
from meshgan.report.scales import SCALES, Scale
from meshgan.storage import atomic_file
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe

TITLES = {"coma": "CoMA", "meshgan": "MeshGAN", "pca": "PCA"}
UNSEEN = 6  # faces of figure 1
IDENTITIES = {
    "African": {"ancestry": "african"},
    "Asian": {"ancestry": "asian"},
    "Caucasian": {"ancestry": "caucasian"},
    "child": {"age_group": "child"},
    "elderly": {"age_group": "elderly"},
    "female": {"sex": "female"},
    "male": {"sex": "male"},
}
LABEL = "expression"  # the column that the classifier learns


def reproduce_figure(figure: str, out: Path, scale: str = "desk", device: str = "auto") -> list[Path]:
    """Make one of `FIGURES` in the folder `out`, with all that it needs; returns the files written.

    Stopped, the same call goes on where it was. Raises `UsageError` if `out` holds another scale.
    """
    if figure not in FIGURES or scale not in SCALES:
        raise UsageError(f"no {figure} at {scale} scale: choose of {', '.join(FIGURES)} and of {', '.join(SCALES)}.")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    return FIGURES[figure](out, SCALES[scale], device)


def figure1(out: Path, size: Scale, device: str) -> list[Path]:
    """Reconstructions of unseen faces, with their errors."""
    models, faces = _models("table1", out, size, device, "coma", "meshgan")
    path = out / "figures" / "figure1.png"
    reconstructions(models, np.asarray(faces.vertices[some_rows(faces.split.test, UNSEEN)]), path)
    return [path]


def figure4(out: Path, size: Scale, device: str) -> list[Path]:
    """Ancestry, age and sex exaggerated."""
    models, faces = _models("table1", out, size, device, "coma", "meshgan")
    path = out / "figures" / "figure4.png"
    exaggerations(models, {title: representative(faces, **labels) for title, labels in IDENTITIES.items()}, path)
    return [path]


def figure5(out: Path, size: Scale, device: str) -> list[Path]:
    """The six expressions exaggerated."""
    models, faces = _models("table2", out, size, device, "coma", "meshgan")
    path = out / "figures" / "figure5.png"
    exaggerations(models, {name: representative(faces, expression=name, kind="posed") for name in EXPRESSIONS}, path)
    return [path]


def figure6(out: Path, size: Scale, device: str) -> list[Path]:
    """Recognition of exaggerated expressions, with PCA as a third curve; the numbers go to OUT/figure6.json."""
    models, faces = _models("table2", out, size, device, "coma", "meshgan", "pca")
    classifier, unseen = make_classifier(out, size)
    tested = unseen.split.test
    truth, found = unseen.labels[LABEL][tested], classifier.predict(np.asarray(unseen.vertices[tested]))
    curves = {name: _curve(model, faces, classifier) for name, model in models.items()}
    accuracy = float((found == truth).mean())
    numbers = {
        "factors": FACTORS,
        **{name.lower(): curve.rate.tolist() for name, curve in curves.items()},
        **{f"{name.lower()}_band": [curve.low.tolist(), curve.high.tolist()] for name, curve in curves.items()},
        "real_accuracy": accuracy,
        "classes": classifier.card.classes,
        "confusion": confusion(truth, found, classifier.card.classes).tolist(),
    }
    plot, table = out / "figures" / "figure6.png", out / "figure6.json"
    with atomic_file(table) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    recognition_plot(curves, FACTORS, accuracy, plot)
    return [plot, table]


def figure7(out: Path, size: Scale, device: str) -> list[Path]:
    """Between and beyond two random faces, identity by expression, a grid for each method."""
    identities, _ = _models("table1", out, size, device, "coma", "meshgan")
    expressions, _ = _models("table2", out, size, device, "coma", "meshgan")
    paths = []
    for name, identity in identities.items():
        paths.append(out / "figures" / f"figure7-{name.lower()}.png")
        expression_grid(identity, expressions[name], paths[-1])
    return paths


FIGURES: Mapping[str, Callable[[Path, Scale, str], list[Path]]] = {
    "figure1": figure1,
    "figure4": figure4,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
}


def make_classifier(out: Path, size: Scale) -> tuple[Classifier, FaceSet]:
    """The classifier of expressions, trained unless that is done, and its faces of subjects of their own.

    Raises `UsageError` if `out` holds one of another recipe.
    """
    faces = classifier_corpus(out, size)
    run = out / "expressions" / "runs" / "classifier"
    return Classifier.load(train(load_recipe("classifier", size.classifier), faces, run, resume=True)), faces


def _models(table: str, out: Path, size: Scale, device: str, *names: str) -> tuple[Models, FaceSet]:
    """Some of a table's models by their titles, and its corpus."""
    runs, faces = home_of(table, out) / "runs", corpus_of(table, out, size)
    for name in names:
        make_model(runs / name, TABLES[table][name], faces, size.changes, device)
    return {TITLES[name]: load_model(runs / name) for name in names}, faces


def _curve(model: Model, faces: FaceSet, classifier: Classifier) -> Curve:
    rows = chosen(faces, faces.split.test, {"kind": "posed"})
    hits = extrapolation_hits(model, np.asarray(faces.vertices[rows]), faces.labels[LABEL][rows], classifier.predict)
    return recognition_curve(hits, faces.subjects[rows])
