"""The paper's figures on open data, from the same corpora and runs as the tables, MeshGAN beside CoMA, as PNG.

OUT/figures/FIGURE.png, for figure 7 one for each method; figure 6 also OUT/figure6.json. What is drawn takes `models`,
titled, in the order of their rows; faces are real ones of a FaceSet that no model was trained on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from meshgan.arrays import Codes, Faces, Integers
from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import principal_components
from meshgan.errors import UsageError
from meshgan.evaluation.semantics import FACTORS, Curve, chosen, confusion, extrapolation_hits, recognition_curve
from meshgan.evaluation.yardstick import BAND_NAMES, COARSE, RAKING, THREE_QUARTERS, beyond
from meshgan.geometry.laplacian import BandFilter
from meshgan.model.classifier import Classifier
from meshgan.model.compose import compose
from meshgan.model.face_model import FaceModel
from meshgan.model.latent import interpolate
from meshgan.model.load import Model, check_same_template, load_model
from meshgan.model.samplers import face_numbers
from meshgan.report.reproduce import SCALES, TABLES, Scale, classifier_corpus, corpus_of, home_of, make_model
from meshgan.storage import atomic_file
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe
from meshgan.view.figures import (
    DPI,
    SUPERSAMPLE,
    camera_for,
    factor_label,
    heat_limit,
    heat_tiles,
    page,
    tiles,
)
from meshgan.view.raster import render

Models = Mapping[str, Model]

EXAGGERATION = (1.0, 1.25, 1.5, 1.75, 2.0)
GRID = (-0.5, 0.0, 0.5, 1.0, 1.5)
DRAWN = 12  # random faces of which figure 7 shows two
COLOURS = ("#c0504d", "#2a6fbd", "#6b6b6b", "#7a9a3a")
DETAILED = 300  # faces whose spectra are shown
NEAR = replace(  # what the metric sees, for eyes: a little light from the other side, and bright enough
    RAKING, directions=(*RAKING.directions, (0.9, 0.2, 0.5)), strengths=((0.8,), (0.05,)), background=(1.0,), srgb=True
)
NOTHING = 1e-3  # of people's energy: as much as none
TITLES = {"coma": "CoMA", "meshgan": "MeshGAN", "meshgan-convolutions": "convolutions only", "pca": "PCA"}
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


def reconstructions(models: Models, faces: Faces, path: Path, size: int = 256) -> dict[str, float]:
    """Figure 1a: unseen faces (N, V, 3), what each model makes of them by Eq. 2, and where it errs.

    Returns the mean distance in mm of each model.
    """
    fits = {name: model.fit(faces) for name, model in models.items()}
    triangles, camera = next(iter(models.values())).template.triangles, camera_for(faces)
    limit = max(heat_limit(fit.error_mm) for fit in fits.values())
    rows, titles = [tiles(faces, triangles, size, camera=camera)], ["unseen face"]
    captions = [[""] * len(faces)]
    for name, fit in fits.items():
        rows += [
            tiles(fit.vertices, triangles, size, camera=camera),
            heat_tiles(fit.vertices, fit.error_mm, triangles, limit, size, camera=camera),
        ]
        titles += [name, "error"]
        captions += [[""] * len(faces), [f"mean {error:.2f} mm" for error in fit.error_mm.mean(axis=1)]]
    page(path, rows, titles, captions=captions, bar_mm=limit)
    return {name: float(fit.error_mm.mean()) for name, fit in fits.items()}


def near(models: Models, unseen: Faces, path: Path, seed: int = 0, size: int = 512) -> None:
    """Real faces and samples, then unseen faces (N, V, 3) and reconstructions, in raking light, which shows shape.

    A row for real faces and one for each model, N columns: random faces in the first half, the others rebuilt.
    """
    half = len(unseen) // 2
    rows = [unseen] + [
        np.concatenate([model.sample(half, seed), model.fit(unseen[half:]).vertices]) for model in models.values()
    ]
    triangles, camera = next(iter(models.values())).template.triangles, camera_for(np.concatenate(rows))
    aside = replace(camera, yaw=THREE_QUARTERS)
    drawn = [render(row, triangles, size, SUPERSAMPLE, aside, NEAR)[..., None].repeat(3, axis=-1) for row in rows]
    titles = ["random face"] * half + ["unseen face, rebuilt"] * (len(unseen) - half)
    page(path, drawn, ["real", *models], titles)


def spectra(models: Models, faces: FaceSet, path: Path, seed: int = 0) -> None:
    """How strong samples' detail is by wavelength: energy beyond 64 principal components, over that of test faces."""
    space, bands = principal_components(faces.vertices, faces.split.train, COARSE), BandFilter.of(faces.template)
    test = np.asarray(faces.vertices[some_rows(faces.split.test, DETAILED)])
    people = bands.energies(beyond(space, test)).mean(axis=0)
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.axhline(1.0, color="#999999", linestyle=":", label="real")
    there = people > 0  # a coarse template has no short waves
    names = [name.removesuffix(" mm").replace("-", "–") for name, some in zip(BAND_NAMES, there, strict=True) if some]
    none = []
    for name, model in models.items():
        share = bands.energies(beyond(space, model.sample(DETAILED, seed))).mean(axis=0)[there] / people[there]
        if share.max(initial=0.0) < NOTHING:
            none.append(name)
        else:
            axes.plot(names, share, marker="o", label=name)
    title = f"{', '.join(none)}: none" if none else None
    axes.set(xlabel="wavelength, mm", ylabel="energy, times that of real faces", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, title=title, loc="outside right upper")
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)
    plt.close(figure)


def exaggerations(
    models: Models, targets: Mapping[str, Faces], path: Path, factors: Sequence[float] = EXAGGERATION, size: int = 192
) -> None:
    """Figures 4 and 5: each titled target (V, 3), exaggerated away from the neutral template by Eq. 3.

    One row for each target: the face itself, then each model's faces for all factors.
    """
    triangles = next(iter(models.values())).template.triangles
    faces = np.stack(list(targets.values())).astype(np.float32)
    columns = np.concatenate(
        (faces[:, None], *(exaggerated(model, faces, factors) for model in models.values())), axis=1
    )
    camera = camera_for(columns.reshape(-1, *faces.shape[1:]))
    heads = [
        f"{name}, {factor_label('f', f)}" if f == factors[0] else factor_label("f", f)
        for name in models
        for f in factors
    ]
    rows = [tiles(row, triangles, size, camera=camera) for row in columns]
    page(path, rows, list(targets), ["real face", *heads])


def exaggerated(model: Model, faces: Faces, factors: Sequence[float]) -> Faces:
    """Faces (N, V, 3) moved away from the template in latent space: (N, factors, V, 3), by Eqs. 2 and 3.

    Details of chance, which no code holds, are the mean ones: they would change with the face, not with the factor.
    """
    neutral = model.fit(model.template.vertices[None]).codes[0]
    codes = [interpolate(neutral, code, factors) for code in model.fit(faces).codes]
    return np.stack([model.decode(line) for line in codes])


def expression_grid(
    identity: Model,
    expression: Model,
    path: Path,
    seed: int = 0,
    factors: Sequence[float] = GRID,
    size: int = 192,
) -> None:
    """Figure 7: between and beyond two random faces, f_ID down and f_EXP across; the two anchors are boxed.

    They are the two of `DRAWN` random identities, and of as many random expressions, that differ most.
    """
    check_same_template(identity, expression)
    identities = identity.decode(_line(_far_apart(identity, seed), factors), numbers=_same(factors, seed))
    expressions = expression.decode(_line(_far_apart(expression, seed + 1), factors), numbers=_same(factors, seed + 1))
    template = expression.template.vertices.astype(np.float32)
    faces = compose(identities[:, None], expressions[None], template)
    camera = camera_for(faces.reshape(-1, *template.shape))
    rows = [tiles(row, identity.template.triangles, size, camera=camera) for row in faces]
    anchors = {(i, i) for i, factor in enumerate(factors) if factor in (0.0, 1.0)}
    down, across = ([factor_label(name, factor) for factor in factors] for name in ("f_ID", "f_EXP"))
    page(path, rows, down, across, boxed=anchors)


def _far_apart(model: Model, seed: int) -> Codes:
    codes = model.codes(DRAWN, seed)
    faces = model.decode(codes)
    first, second = np.triu_indices(DRAWN, 1)
    widest = int(np.linalg.norm(faces[first] - faces[second], axis=2).mean(axis=1).argmax())
    return codes[[first[widest], second[widest]]]


def _same(factors: Sequence[float], seed: int) -> Integers:
    """One number for all faces of a line, so that their details of chance stay what they are."""
    return np.repeat(face_numbers(1, seed), len(factors))


def _line(codes: Codes, factors: Sequence[float]) -> Codes:
    return interpolate(codes[0], codes[1], factors)


def recognition_plot(curves: Mapping[str, Curve], factors: Sequence[float], real_accuracy: float, path: Path) -> None:
    """Figure 6: the recognition rate of exaggerated expressions over the factor, with 95 % bands."""
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    try:
        _draw_curves(axes, curves, factors, real_accuracy)
        with atomic_file(path) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
    finally:
        plt.close(figure)


def _draw_curves(axes: Any, curves: Mapping[str, Curve], factors: Sequence[float], real_accuracy: float) -> None:
    axes.axhline(100 * real_accuracy, color="#999999", linestyle=":", label="real faces")
    for over, ((name, curve), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        axes.fill_between(factors, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.18, linewidth=0)
        order = 9 - over  # the first on top: two curves that agree are to be seen both
        axes.plot(factors, 100 * curve.rate, color=colour, marker="o", markersize=4 + over, label=name, zorder=order)
    lowest = 100 * min(curve.low.min() for curve in curves.values())
    bottom = 5 * int(lowest / 5)  # curves that stay near 100 % are to be told apart
    if bottom < 100 / 6:
        axes.axhline(100 / 6, color="#cccccc", linestyle="--", linewidth=1, label="chance")
    axes.set(xlabel="extrapolation factor f", ylabel="recognition rate (%)", ylim=(bottom, 101))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def representative(faces: FaceSet, **labels: str) -> Faces:
    """The unseen face (V, 3) nearest to the mean of the training faces with these labels (column=word).

    Its own features are mild, so that what is exaggerated is what the words mean. Raises `UsageError` if the
    training or the test part has no such face.
    """
    train, test = (chosen(faces, rows, labels) for rows in (faces.split.train, faces.split.test))
    mean = np.mean(faces.vertices[train], axis=0, dtype=np.float64)
    distances = np.linalg.norm(faces.vertices[test] - mean, axis=-1).mean(axis=1)
    return np.asarray(faces.vertices[test[distances.argmin()]])


def reproduce_figure(figure: str, out: Path, scale: str = "desk", device: str = "auto") -> list[Path]:
    """Make one of `FIGURES` in the folder `out`, with all that it needs; returns the files written.

    Stopped, the same call goes on where it was. Raises `UsageError` if `out` holds another scale.
    """
    if figure not in FIGURES or scale not in SCALES:
        raise UsageError(f"no {figure} at {scale} scale: choose of {', '.join(FIGURES)} and of {', '.join(SCALES)}.")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    return FIGURES[figure](out, SCALES[scale], device)


def figure1(out: Path, size: Scale, device: str) -> list[Path]:
    """Reconstructions of unseen faces, with their errors; samples and reconstructions seen near; their spectra."""
    models, faces = _models("table1", out, size, device, "coma", "meshgan", "meshgan-convolutions", "pca")
    paths = [out / "figures" / f"figure1{part}.png" for part in ("", "-faces", "-spectra")]
    unseen = np.asarray(faces.vertices[some_rows(faces.split.test, UNSEEN)])
    reconstructions({name: models[name] for name in ("CoMA", "MeshGAN")}, unseen, paths[0])
    ours = models["MeshGAN"]
    shown: dict[str, Model] = {"MeshGAN": ours}
    if isinstance(ours, FaceModel) and ours.has_linear_path:
        shown["convolutions off"] = ours.without_convolutions()
    shown |= {name: models[name] for name in ("convolutions only", "CoMA", "PCA")}
    near(shown, unseen, paths[1])
    spectra(shown, faces, paths[2])
    return paths


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
