"""What a set of faces holds: its card, split and labels, and how detailed its faces are.

Detail is energies by wavelength, and what principal components leave of unseen people.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from meshgan.arrays import Floats, Reals
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import principal_components
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.laplacian import BANDS, BandFilter
from meshgan.geometry.mesh import same_triangles
from meshgan.progress import counted

MOST_VALUES = 12  # a label with more different values is told by their number, or its range
ALL_BANDS = ((np.inf, BANDS[0][0]), *BANDS)
COMPONENTS = (8, 16, 32, 64, 128)
BEYOND = 64  # components whose remainder is told by band
# Faces at most, with a template of 5,000 vertices; with larger ones as many fewer, so that the work is bounded.
MEASURED, LEARNED, AT_VERTICES = 1200, 12000, 5_200
MOST_VERTICES = 30_000
PASSES = 4  # over the faces by which components are found: errors of unseen faces do not change with more


def summarise(faces: FaceSet) -> dict[str, Any]:
    """The card, the numbers of faces, subjects and vertices, the split, and the values of each label."""
    split = faces.split
    low, high = faces.template.vertices.min(axis=0), faces.template.vertices.max(axis=0)
    return {
        "path": str(faces.path),
        "card": faces.card.model_dump(),
        "faces": len(faces),
        "subjects": len(np.unique(faces.subjects)),
        "template": {
            "vertices": len(faces.template.vertices),
            "triangles": len(faces.template.triangles),
            "size_mm": [round(float(x), 1) for x in high - low],
        },
        "split": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "labels": {name: _values(column) for name, column in faces.labels.items()},
        "bytes": sum(file.stat().st_size for file in faces.path.iterdir() if file.is_file()),
    }


def _values(column: np.ndarray[Any, Any]) -> dict[str, Any]:
    """How often each value occurs, if there are few; otherwise their number, and the range of numbers."""
    values, counts = np.unique(column, return_counts=True)
    if len(values) <= MOST_VALUES:
        return {"counts": {str(value): int(count) for value, count in zip(values, counts, strict=True)}}
    try:
        numbers = values.astype(np.float64)
    except ValueError:
        return {"different": len(values)}
    return {"different": len(values), "from": float(numbers.min()), "to": float(numbers.max())}


def describe(summary: dict[str, Any]) -> str:
    """The summary as lines for a person to read."""
    card, template, split = summary["card"], summary["template"], summary["split"]
    width, height, depth = template["size_mm"]
    lines = [
        f"{card['name']}: {counted(summary['faces'], 'face')} of {counted(summary['subjects'], 'subject')}, "
        f"{summary['bytes'] / 1e6:.0f} MB",
        f"source    {card['source']}" + (" (synthetic)" if card["synthetic"] else ""),
        f"licence   {card['licence']}",
        f"template  {template['vertices']} vertices, {template['triangles']} triangles, "
        f"{width} × {height} × {depth} mm",
        f"split     {split['train']} to train, {split['validation']} to validate, {split['test']} to test, by subject, "
        f"seed {card['split_seed']}",
        "labels",
    ]
    width = max(12, *(len(name) + 2 for name in summary["labels"]))
    return "\n".join(lines + [f"  {name:<{width}}{_told(values)}" for name, values in summary["labels"].items()])


def _told(values: dict[str, Any]) -> str:
    if "counts" in values:
        return ", ".join(f"{value} {count}" for value, count in values["counts"].items())
    span = f", from {values['from']:g} to {values['to']:g}" if "from" in values else ""
    return f"{values['different']} different values{span}"


@dataclass(frozen=True, eq=False)
class Detail:
    """Energies (B,) in mm² per vertex by `ALL_BANDS`: of the `total` deviation of unseen faces from the mean, and of
    what `BEYOND` principal components leave of it; `errors` the mean distance in mm that K components leave, by K.

    `learned` and `measured` count faces; `beside` is the same of faces of another set.
    """

    total: Floats
    beyond: Floats
    errors: dict[int, float]
    learned: int
    measured: int
    beside: "Detail | None" = None

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine."""
        beside = {"beside": self.beside.as_dict()} if self.beside is not None else {}
        return beside | {
            "bands_mm": [[None if longest == np.inf else longest, shortest] for longest, shortest in ALL_BANDS],
            "total_mm2": self.total.tolist(),
            f"beyond_pca_{BEYOND}_mm2": self.beyond.tolist(),
            "rms_mm": float(np.sqrt(self.total.sum())),
            "pca_error_mm": {str(count): error for count, error in self.errors.items()},
            "faces_learned_from": self.learned,
            "faces_measured": self.measured,
        }

    def describe(self) -> str:
        """Lines for a person to read."""
        rows = self.rows()
        width = max(map(len, rows)) + 2
        lines = [f"energy by wavelength in mm, mm² per vertex, {counted(self.measured, 'face')} of unseen people:"]
        lines.append(" " * width + "".join(f"{band_name(band):>10}" for band in ALL_BANDS) + f"{'rms mm':>10}")
        for name, row in rows.items():
            values = "".join(f"{value:>10.3g}" for value in row)
            lines.append(f"  {name:<{width - 2}}{values}{np.sqrt(row.sum()):>10.2f}")
        lines.append(f"principal components of {counted(self.learned, 'face')} leave, in mm: {self._left()}")
        if self.beside is not None:
            lines.append(f"and of {counted(self.beside.measured, 'face')} beside them: {self.beside._left()}")
        return "\n".join(lines)

    def rows(self) -> dict[str, Floats]:
        """The energies with their names."""
        rows = {"total": self.total, f"beyond PCA-{BEYOND}": self.beyond}
        return rows | ({f"beside: {name}": row for name, row in self.beside.rows().items()} if self.beside else {})

    def _left(self) -> str:
        return ", ".join(f"{error:.3f} with {count}" for count, error in self.errors.items())


def band_name(band: tuple[float, float]) -> str:
    """`64–32`, `> 128` or `< 5.5`: a band of wavelengths in mm."""
    longest, shortest = band
    if longest == np.inf:
        return f"> {shortest:g}"
    return f"{longest:g}–{shortest:g}" if shortest else f"< {longest:g}"


def measure_detail(faces: FaceSet, beside: FaceSet | None = None) -> Detail:
    """Measure a set on its test part, against the mean and the principal components of its training part.

    All training faces are learned from (12,000 at most: fewer make components worse); of the test faces 1,200 are
    measured. On templates of more than some 5,000 vertices it is as many fewer: the work stays what it is. Faces of
    the template from elsewhere, `beside`, are all measured, each moved to the mean rigidly. Raises `UsageError` for
    sets without test faces, for those beside that are of another template, and for meshes of more than 30,000 vertices.
    """
    size = len(faces.template.vertices)
    if size > MOST_VERTICES:
        raise UsageError(f"{faces.path} has {size} vertices; spectra are measured of up to {MOST_VERTICES}.")
    if beside is not None and not same_triangles(beside.template, faces.template):
        raise UsageError(f"{beside.path} is a set of another template than {faces.path}.")
    share = min(1.0, AT_VERTICES / size)
    most = int(share * MEASURED)
    train, test = some_rows(faces.split.train, int(share * LEARNED)), some_rows(faces.split.test, most)
    if not len(test) or len(train) < 2:
        raise UsageError(f"{faces.path} has too few people: somebody must be left whom no component has seen.")
    for one in (faces, beside):
        if one is not None:
            one.check()
    mean = faces.normalisation.mean
    axes = principal_components(faces.vertices, train, max(COMPONENTS), passes=PASSES).axes.reshape(-1, mean.size)
    bands = BandFilter.of(faces.template, ALL_BANDS)
    others = None
    if beside is not None:
        some = beside.vertices[some_rows(np.arange(len(beside)), most)]
        others = _detail(rigid(some, mean)(some).astype(np.float32) - mean, axes, bands, len(train))
    return replace(_detail(faces.vertices[test] - mean, axes, bands, len(train)), beside=others)


def _detail(away: Reals, axes: Reals, bands: BandFilter, learned: int) -> Detail:
    """The same of faces (N, V, 3), less the mean."""
    flat = away.reshape(len(away), -1)
    codes = flat @ axes.T

    def left_by(count: int) -> Reals:
        return (flat - codes[:, :count] @ axes[:count]).reshape(away.shape)

    errors = {
        count: float(np.linalg.norm(left_by(count), axis=2).mean())
        for count in COMPONENTS
        if count < learned or count == min(COMPONENTS)  # of n faces there are n − 1 components
    }
    total, left = (bands.energies(part).mean(axis=0) for part in (away, left_by(BEYOND)))
    return Detail(total, left, errors, learned, len(away))
