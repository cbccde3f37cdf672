"""Put the models of a reproduction into the package: `python tools/ship_models.py OUT`.

OUT is the folder of `meshgan reproduce table1` and `table2`. The linear path is stored in half precision, which halves
the files; the card says how far that moves a vertex. Directions come from the labels of the corpora. Move away what
shipped before.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError
from meshgan.evaluation.semantics import describe
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import SHIPPED, ModelParts, read_model_folder, write_model_folder
from meshgan.report.results import Result, Results

LINEAR = "generator/linear"
MOST = 8 * 2**20  # bytes, all models together
MODELS = {  # name: run, corpus, table, labels, only faces with these labels
    "identity": ("runs", "corpus", "table1", ["age", "sex", "ancestry", "weight"], {}),
    "expression": ("expressions/runs", "expressions/corpus", "table2", ["expression"], {"kind": "posed"}),
}
ABOUT = {
    "identity": "Neutral faces of synthetic people: children to elderly, three ancestries, both sexes.",
    "expression": "What an expression does to a face, on the template: six basic expressions and spontaneous mixtures.",
}
VERBS = {
    "identity": "meshgan sample identity --out faces --sheet faces.png",
    "expression": "meshgan compose identity expression --out faces",
}
DISTANCE = {  # how far real people are: docs/realism.md
    "identity": """Real people are further away: 64 principal components of its corpus leave
  1.0 to 1.1 mm of two real heads, and 0.6 mm of unseen people of the corpus (docs/realism.md).""",
    "expression": """Real people are further away: 64 principal components of the
  corpus leave 1.0 to 1.1 mm of two real heads and 0.6 mm of its own unseen people, identity alone (docs/realism.md).
  How far real expressions are is not known: no scans of them that anyone may use were at hand. What is small in them
  (dimples, asymmetries, folds of a person's own) is not in this model.""",
}
CARD = """# {name}

{about}
A MeshGAN: `{verb}`.

* **Data**: {data}, {train_faces:,} training faces: {source}.
  Synthetic: no person was scanned. Licence of the data and of this model: {licence}.
* **Recipe**: `{recipe}`, {faces_seen:,} faces seen in {minutes:.0f} minutes, seed {seed}.
  The whole recipe is in `model.json`. Machine: {machine}.
* **Numbers** on {test_faces:,} faces of unseen subjects ({date}; docs/results/{table}-desk.json):

| | this model | real faces |
|---|---|---|
| specificity, mm | {specificity:.3f} | {real_specificity:.3f} |
| diversity, mm | {diversity:.2f} | {real_diversity:.2f} |
| coverage | {coverage:.3f} | {real_coverage:.3f} |
| FID | {fid:.2f} | {real_fid:.2f} |
| generalisation (Eq. 2), mm | {generalisation:.3f} | |

* **Limits**: it knows what the corpus knows. {distance}
  Its people are drawn from the head shapes that MakeHuman's artists made, in
  proportions that were chosen, not counted; ancestry is a blend of three such shapes and says nothing about anybody
  real. The face is a mask without eyeballs, teeth, hair or texture.
* **Stored** with its linear path in half precision: no vertex of {sampled} samples moves by more than {moved:.4f} mm.
"""


def ship(name: str, out: Path) -> None:
    """Write one model folder into the package: halved, with directions and its card."""
    runs, corpus, table, labels, only = MODELS[name]
    parts, results = read_model_folder(out / runs / "meshgan" / "model"), Results.read(out / f"{table}.json")
    row, real = results.find("meshgan", "uniform"), results.find("real", "none")
    if row is None or real is None or row.faces_seen != parts.card.origin.faces_seen:
        raise MeshganError(f"{out / table}.json is not about the model in {out / runs}; reproduce the table again.")
    tensors = {**parts.tensors, LINEAR: parts.tensors[LINEAR].astype(np.float16)}
    folder = SHIPPED / name
    write_model_folder(folder, replace(parts, card=parts.card.model_copy(update={"name": name}), tensors=tensors))
    describe(FaceModel.load(folder), FaceSet.open(out / corpus), labels, only).directions.save(folder)
    (folder / "README.md").write_text(card(name, parts, results, row, real), encoding="utf-8")


def card(name: str, parts: ModelParts, results: Results, row: Result, real: Result) -> str:
    """The model card as Markdown."""
    whole, halved, sampled = FaceModel(parts), FaceModel.load(SHIPPED / name), 1000
    moved = np.linalg.norm(whole.sample(sampled) - halved.sample(sampled), axis=2).max()
    origin = parts.card.origin
    return CARD.format(
        name=name.capitalize(),
        about=ABOUT[name],
        distance=DISTANCE[name],
        verb=VERBS[name],
        recipe=parts.card.name,
        **{key: getattr(origin, key) for key in ("data", "source", "licence", "faces_seen", "seed")},
        **{key: getattr(results, key) for key in ("table", "machine", "date", "train_faces", "test_faces")},
        minutes=row.train_minutes,
        specificity=row.value("specificity_mm"),
        diversity=row.value("diversity_mm"),
        coverage=row.value("coverage"),
        fid=row.value("fid"),
        generalisation=row.value("generalisation_mm"),
        real_specificity=real.value("specificity_mm"),
        real_diversity=real.value("diversity_mm"),
        real_coverage=real.value("coverage"),
        real_fid=real.value("fid"),
        sampled=sampled,
        moved=moved,
    )


def main() -> None:
    """Ship all models, then check what they weigh."""
    for name in MODELS:
        ship(name, Path(sys.argv[1]))
    size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    print(f"{', '.join(MODELS)}: {size / 2**20:.2f} MiB")
    if size > MOST:
        raise MeshganError(f"the models weigh {size:,} bytes, {MOST:,} are allowed.")


if __name__ == "__main__":
    main()
