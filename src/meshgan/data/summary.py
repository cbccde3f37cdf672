"""What a set of faces holds, for a person or as JSON."""

from typing import Any

import numpy as np

from meshgan.data.faceset import FaceSet

MOST_VALUES = 12  # a label with more different values is told by their number, or its range


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
        f"{card['name']}: {summary['faces']} faces of {summary['subjects']} subjects, {summary['bytes'] / 1e6:.0f} MB",
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
