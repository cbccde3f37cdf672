"""`meshgan sample`, `fit`, `interpolate`, `compose`, `rig`, `drive`, `directions`: what is done with trained models."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from meshgan.cli import MARKS, MODEL, SHIPPED, JsonOption, ModelName
from meshgan.errors import UsageError
from meshgan.progress import counted

if TYPE_CHECKING:
    from meshgan.arrays import Codes, Faces, Integers
    from meshgan.geometry.mesh import Mesh
    from meshgan.model.compose import Composition
    from meshgan.model.load import Model
    from meshgan.model.rig import Kind, Targets

MOST_FACTORS = 200  # faces on a strip
MOST_FACES = 100_000  # six gigabytes in memory, and as many files
MOST_SHOWN = 400  # on a sheet
SHOWN = 8  # on a sheet of compositions
MOST_TOLD = 20  # faces, each in a line
FORMATS = ("glb", "obj", "ply")
RESULTS = re.compile(r"(face|between)-\d{3,}\.(glb|obj|ply|json)|(sheet|strip|errors)\.png|summary\.json")  # of verbs


ModelArgument = Annotated[
    ModelName, typer.Argument(help="A model folder, a run folder, or the name of a model that ships.", **MODEL)
]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
FormatOption = Annotated[str, typer.Option("--format", help="glb, obj, ply, or several with commas between.")]
RigOption = Annotated[
    Literal["arkit", "expressions", "both", "none"] | None,
    typer.Option(
        metavar="KIND",
        help="The morph targets of GLB files: arkit (Apple's 52 shapes), expressions (six), both, or none.",
    ),
]
UnitOption = Annotated[
    Literal["mm", "cm", "m", "auto"],
    typer.Option(help="Unit of the meshes, GLB is always in metres; auto for raw scans of an unknown scale."),
]
TARGET = "expressionRandom"  # the morph target that is on when a file is opened


def sample(
    model: ModelArgument,
    out: OutOption,
    count: Annotated[int, typer.Option(min=1, max=MOST_FACES, help="How many faces.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    format: FormatOption = "glb",
    sheet: Annotated[Path | None, typer.Option(help="Also draw the faces on a contact sheet (PNG).")] = None,
    sampler: Annotated[
        Literal["uniform", "standard-normal", "fitted-normal", "mixture", "bootstrap", "flow"] | None,
        typer.Option(
            metavar="KIND",
            help="How codes are drawn: uniform, standard-normal, fitted-normal, mixture, bootstrap or flow; by default "
            "as the model was trained to.",
        ),
    ] = None,
    rig: RigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw random faces; beside each mesh, a JSON file holds its code and the number that its details follow from.

    GLB files open with a rig that face trackers can drive: the 52 ARKit shapes, computed for each face, and six
    expressions.

    Example: `meshgan sample runs/first --out faces --count 16 --sheet faces.png`
    """
    from threadpoolctl import threadpool_limits

    from meshgan.model.load import load_model
    from meshgan.model.rig import kind_of_rig
    from meshgan.model.samplers import face_numbers

    formats, loaded = _formats(format), load_model(model)
    kind = kind_of_rig(rig, loaded.template)
    codes, numbers = loaded.codes(count, seed, sampler), face_numbers(count, seed)
    names = [*_names("face", count, [*formats, "json"]), *([sheet.name] if sheet else [])]
    with threadpool_limits(1, user_api="blas"), one_run_in(out, names):  # as for `compose`
        written = _write_faces(loaded, codes, out, formats, "face", kind, numbers, seed)
        if sheet is not None:
            from meshgan.data.corpora.basis import layout_of
            from meshgan.storage import atomic_file
            from meshgan.view.figures import contact_sheet, worn

            with atomic_file(sheet) as partial:
                shown = loaded.decode(codes[:MOST_SHOWN], numbers=numbers[:MOST_SHOWN])
                colour = worn(layout_of(loaded.template))
                contact_sheet(shown, loaded.template.triangles, partial, colour=colour)
    _report({"model": loaded.card.name, "files": written, "sheet": sheet}, as_json)


def fit(
    model: ModelArgument,
    meshes: Annotated[
        list[Path],
        typer.Argument(
            metavar="MESH|SET...",
            help="Meshes of the model's template, sets of them, raw scans, folders of either, or CSV files of "
            "landmarks: vertex,x,y,z.",
        ),
    ],
    out: OutOption,
    unit: UnitOption = "mm",
    vertices: Annotated[
        Path | None, typer.Option(help="A text file with the vertices that count, one index a line; the rest is free.")
    ] = None,
    align: Annotated[bool, typer.Option(help="First move each mesh rigidly onto the template.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Find the codes whose faces are nearest to given ones: Eq. 2 of the paper, all faces at once.

    A raw scan is registered first, which takes some seconds. Writes each fitted mesh as PLY with its code and error
    as JSON, `summary.json`, and heat maps in `errors.png`.

    Example: `meshgan fit runs/first scan1.ply scan2.ply --out fitted`
    """
    from meshgan.cli.fitting import fit_files

    summary = fit_files(model, meshes, out, unit, vertices, align)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    faces = summary["faces"]
    for face in faces[: len(faces) if len(faces) <= MOST_TOLD else MOST_TOLD - 1]:
        print(
            f"{face['file']}: mean {face['mean_mm']:.2f} mm, median {face['median_mm']:.2f}, max {face['max_mm']:.2f}"
        )
    if len(faces) > MOST_TOLD:
        print(f"… and {len(faces) - MOST_TOLD + 1:,} more, all in {out / 'summary.json'}.")
    print(f"All: mean {summary['mean_mm']:.2f} mm. Fitted meshes, codes and heat maps lie in {out}.")


def interpolate(
    model: ModelArgument,
    a: Annotated[Path, typer.Argument(help="A mesh of the template, or a JSON file with a code.")],
    b: Annotated[Path, typer.Argument(help="The same for the other end.")],
    out: OutOption,
    factors: Annotated[
        str, typer.Option(help="0 is A, 1 is B, values outside extrapolate; commas between.")
    ] = "-0.5,0,0.5,1,1.5",
    format: FormatOption = "glb",
    unit: UnitOption = "mm",
    as_json: JsonOption = False,
) -> None:
    """Interpolate and extrapolate between two faces in the latent space: Eq. 3 of the paper.

    Example: `meshgan interpolate runs/first a.ply b.ply --out between --factors -0.5,0,0.5,1,1.5`
    """
    import numpy as np

    from meshgan.cli.fitting import read_code, read_number
    from meshgan.data.corpora.basis import layout_of
    from meshgan.model.latent import interpolate as between
    from meshgan.model.latent import nearer
    from meshgan.model.load import load_model
    from meshgan.storage import atomic_file
    from meshgan.view.figures import strip, worn

    formats, values, loaded = _formats(format), _factors(factors), load_model(model)
    codes = between(read_code(loaded, a, unit), read_code(loaded, b, unit), values)
    first, second = read_number(a), read_number(b)
    numbers = None
    if first is not None and second is not None:
        numbers = np.array([nearer(first, second, value) for value in values])
    with one_run_in(out, [*_names("between", len(codes), [*formats, "json"]), "strip.png"]):
        written = _write_faces(loaded, codes, out, formats, "between", numbers=numbers)
        with atomic_file(out / "strip.png") as partial:
            shown, colour = loaded.decode(codes, numbers=numbers), worn(layout_of(loaded.template))
            strip(shown, loaded.template.triangles, partial, values, colour=colour)
    _report({"model": loaded.card.name, "files": written, "strip": out / "strip.png"}, as_json)


def refuse_other_runs(out: Path, names: Iterable[str]) -> None:
    """Raise `UsageError` where results of another run would lie in a folder beside files of these names, and for the
    folder of a set, a model or a run.

    Results of the same names are those of the same command, which are written anew.
    """
    from meshgan.storage import disk_errors

    if any((out / mark).is_file() for mark in MARKS):
        raise UsageError(f"{out} is a set, a model or a run; choose another --out for what is drawn from it.")
    with disk_errors(out):
        found = [path.name for path in out.iterdir() if RESULTS.fullmatch(path.name)] if out.is_dir() else []
    if left := sorted(set(found) - set(names)):
        raise UsageError(
            f"{out} holds {counted(len(left), 'file')} of another run, {left[0]} for example, that would "
            "lie beside the new ones; choose another --out, or move them away."
        )


@contextmanager
def one_run_in(out: Path, names: Iterable[str]) -> Iterator[None]:
    """A folder for what one run writes, which has these names: no other run is in it, or has left anything else."""
    from meshgan.storage import alone_in

    refuse_other_runs(out, names)
    with alone_in(out):
        yield


def _names(stem: str, count: int, endings: Iterable[str]) -> list[str]:
    from meshgan.geometry.files import face_names

    return [f"{name}.{ending}" for name in face_names(stem, count) for ending in endings]


def _write_faces(
    model: "Model",
    codes: "Codes",
    out: Path,
    formats: list[str],
    stem: str,
    kind: "Kind" = "none",
    numbers: "Integers | None" = None,
    seed: int | None = None,
) -> list[Path]:
    from meshgan.data.corpora.basis import layout_of
    from meshgan.geometry.files import write_faces
    from meshgan.model.rig import targets_of
    from meshgan.storage import disk_errors

    def shapes(face: "Faces") -> "Targets":
        return targets_of(face, kind)

    with disk_errors(out):
        about = [
            {"model": model.card.name, "licence": model.card.origin.licence, "code": code.tolist()}
            | ({} if numbers is None else {"number": int(numbers[row])})
            | ({} if seed is None else {"seed": seed})
            for row, code in enumerate(codes)
        ]
        series = f"{model.card.name}-" + (f"{seed}-" if seed is not None else "")
        faces, layout = model.decode(codes, numbers=numbers), layout_of(model.template)
        written = write_faces(faces, model.template, out, formats, stem, shapes, layout, about, series)
        for mesh, known in zip(written[:: len(formats)], about, strict=True):
            mesh.with_suffix(".json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    return written


def _formats(text: str) -> list[str]:
    formats = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in formats if part not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"unknown format '{', '.join(unknown) or text}': choose from {', '.join(FORMATS)}.")
    return list(dict.fromkeys(formats))


def _factors(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--factors {text}: write numbers with commas between, for example -0.5,0,1,1.5.") from error
    if len(factors) > MOST_FACTORS:
        raise UsageError(f"--factors: {len(factors):,} are too many; give at most {MOST_FACTORS}.")
    if any(abs(factor) > 1e3 or factor != factor for factor in factors):
        raise UsageError(f"--factors {text}: use finite numbers of a sensible size.")
    return factors


def _report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, default=lambda value: str(value), indent=2))
        return
    files = result.pop("files")
    print(f"Wrote {counted(len(files), 'mesh', 'meshes')} to {files[0].parent}.")
    for name, path in result.items():
        if isinstance(path, Path):
            print(f"The {name} is {path}.")


def compose(
    identity: Annotated[
        ModelName,
        typer.Argument(
            metavar="ID_MODEL", help="Identity model: a folder, or the name of a model that ships.", **MODEL
        ),
    ],
    expression: Annotated[
        ModelName,
        typer.Argument(
            metavar="EXP_MODEL", help="Expression model: a folder, or the name of a model that ships.", **MODEL
        ),
    ],
    out: OutOption,
    count: Annotated[int, typer.Option(min=1, max=MOST_FACES, help="How many faces.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    rig: RigOption = None,
    face: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            metavar="FACE",
            help="A face of your own instead of random ones: a mesh or raw scan, or a JSON file with its code, as "
            "sample, fit and the studio write it.",
        ),
    ] = None,
    unit: UnitOption = "mm",
    as_json: JsonOption = False,
) -> None:
    """Put random expressions on random identities (Fig. 3 of the paper), or on a face of your own.

    Each GLB holds the neutral identity; its morph targets, with weights from 0 to 1, are a random expression (on
    when the file is opened), and those that --rig says: the 52 ARKit shapes, computed for each identity, and the
    expressions that the expression model has names for.

    The model of identities comes first. Beside each file, and in it, stand its codes.

    Example: `meshgan compose identity expression --out faces --count 16`, or `--identity mine.ply --count 4`
    """
    from threadpoolctl import threadpool_limits

    from meshgan.geometry.files import face_names
    from meshgan.model.compose import compose_random, expression_targets
    from meshgan.model.load import load_model
    from meshgan.model.rig import kind_of_rig

    if face is not None and face.resolve().parent == out.resolve():
        raise UsageError(f"{face} lies in {out}, where faces are written that may be called the same; choose another.")
    with threadpool_limits(1, user_api="blas"):  # small products: threads would only wait for each other, spinning
        models = load_model(identity), load_model(expression)
        template = models[0].template
        kind, given, code = kind_of_rig(rig, template), None, None
        if face is not None:
            from meshgan.cli.fitting import read_face  # with all that registers scans

            given, code = read_face(models[0], face, unit)
        made = compose_random(*models, count, seed, given)
        named = expression_targets(expression, models[1]) if rig in (None, "expressions", "both") else {}
        files = [out / f"{name}.glb" for name in face_names("face", count)]
        results = [file.with_suffix(ending).name for file in files for ending in (".glb", ".json")]
        with one_run_in(out, [*results, "sheet.png"]):
            about = [_composition(models, made, row, code, face) | {"seed": seed} for row in range(count)]
            names = _write_compositions(files, template, made, kind, named, about, face)
            _draw_compositions(out / "sheet.png", template, made, [file.stem for file in files[:SHOWN]], face)
    if as_json:
        result = {"files": [str(file) for file in files], "sheet": str(out / "sheet.png"), "targets": names}
        print(json.dumps(result, indent=2))
        return
    print(
        f"Wrote {counted(count, 'GLB file')} with {counted(len(names), 'morph target')}{' each' * (count > 1)} to "
        f"{out}; look at {out / 'sheet.png'}."
    )


def _write_compositions(
    files: list[Path],
    template: "Mesh",
    made: "Composition",
    kind: "Kind",
    named: "Targets",
    about: list[dict[str, Any]],
    face: Path | None,
) -> list[str]:
    """The GLB of each identity, the random expression on, and what it is made of beside it; names of its targets."""
    from meshgan.data.corpora.basis import layout_of
    from meshgan.geometry.files import write_glb
    from meshgan.model.rig import targets_of
    from meshgan.progress import track
    from meshgan.storage import atomic_file

    targets: Targets = {}
    for number, file in enumerate(track(files, "Faces")):
        size, known = made.sizes[number], about[number]
        targets = {TARGET: size * made.shifts[number]} | targets_of(made.identities[number], kind)
        targets |= {name: size * shift for name, shift in named.items()}
        mesh = template.with_vertices(made.identities[number])
        title = f"{face.stem if face else known['model']}-{known['seed']}-{file.stem}"
        rights = str(known.get("licence", ""))
        write_glb(file, mesh, targets, {TARGET: 1.0}, title, rights, layout=layout_of(mesh), about=known)
        with atomic_file(file.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return list(targets)


def _draw_compositions(path: Path, template: "Mesh", made: "Composition", names: list[str], face: Path | None) -> None:
    """The first identities, and with their expressions below; a face that was given once, before its expressions."""
    from meshgan.data.corpora.basis import layout_of
    from meshgan.view.figures import comparison, worn

    people, moved = made.identities[: len(names)], made.faces[: len(names)]
    rows = {"identity": people, "with expression": moved} if face is None else {"": [people[0], *moved]}
    titles = names if face is None else ["given face", *names]
    comparison(rows, template.triangles, path, titles, colour=worn(layout_of(template)))


def _composition(
    models: "tuple[Model, Model]", made: "Composition", number: int, code: "Codes | None", face: Path | None
) -> dict[str, Any]:
    """What stands beside and in the file of one of the faces: the models, and the codes, given (D,) or drawn.

    The models' licences are not those of a mesh that was given.
    """
    codes = code if made.codes is None else made.codes[number]
    licences = dict.fromkeys(one.card.origin.licence for one in models)
    return {
        "model": models[0].card.name,
        "expression_model": models[1].card.name,
        **({"licence": "; ".join(licences)} if face is None or face.suffix.lower() == ".json" else {}),
        **({} if codes is None else {"code": codes.tolist()}),
        "expression_code": made.expression_codes[number].tolist(),
        **({} if face is None else {"identity": face.name}),
    }


def drive(
    model: Annotated[
        ModelName,
        typer.Argument(
            metavar="MODEL|MESH", help="An identity model, or a face of the template (GLB, OBJ, PLY).", **MODEL
        ),
    ],
    source: Annotated[
        Path,
        typer.Option(
            "--from", help="ARKit weights over time as CSV (Live Link Face) or JSON, or a video; see docs/heads.md."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The animated GLB to write.")],
    preview: Annotated[Path | None, typer.Option(help="Also a moving picture: .gif or .mp4.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which random face of the model.")] = 0,
    fps: Annotated[
        float | None, typer.Option(min=1, max=1000, help="Frames a second, where the file does not say it.")
    ] = None,
    unit: Annotated[Literal["mm", "cm", "m"], typer.Option(help="Unit of the mesh; GLB is always in metres.")] = "mm",
    as_json: JsonOption = False,
) -> None:
    """Drive a face by recorded weights: a GLB with them as an animation of its 52 shapes, and the head's turns.

    In a video, weights and turns are those that a network sees (extra `landmarks`), some 30 frames a second.

    Example: `meshgan drive identity --from take.csv --out driven.glb --preview driven.gif`
    """
    from meshgan.geometry.files import MOST_BYTES, READERS, read_mesh
    from meshgan.geometry.glb import picture_of
    from meshgan.model.drive import PREVIEWS, VIDEOS, read_performance, write_driven, write_preview
    from meshgan.model.rig import kind_of_rig
    from meshgan.model.rig import rig as rigged
    from meshgan.reading import read_bytes

    if out.suffix.lower() != ".glb":
        raise UsageError(f"{out} should end in .glb.")
    if preview is not None and preview.suffix.lower() not in PREVIEWS:
        raise UsageError(f"{preview} should end in {' or '.join(PREVIEWS)}.")
    if source.suffix.lower() in VIDEOS:
        from meshgan.registration.landmarks import read_video

        played = read_video(source, fps)
    else:
        played = read_performance(source, fps)
    picture = b""
    if Path(model).suffix.lower() in READERS:
        made = rigged(read_mesh(model, unit), "arkit")
        if Path(model).suffix.lower() == ".glb":  # such as a scan's own colours, from `register --bake`
            picture = picture_of(read_bytes(Path(model), MOST_BYTES))
    else:
        from meshgan.model.load import load_model

        loaded = load_model(model)
        kind_of_rig("arkit", loaded.template)
        made = rigged(loaded.sample(1, seed)[0], "arkit")
    write_driven(out, made, played, picture)  # first: it is what was asked for, and a preview takes a while
    if preview is not None:
        write_preview(preview, made, played)
    seconds = float(played.times[-1])
    if as_json:
        print(json.dumps({"file": str(out), "frames": len(played.times), "seconds": seconds}))
        return
    print(
        f"Wrote {counted(len(played.times), 'frame')}, {seconds:.1f} s, to {out}."
        + (f" Look at {preview}." if preview else "")
    )


def rig(
    head: Annotated[Path, typer.Argument(help="A head of your own: GLB, OBJ, PLY or STL, with a neutral face.")],
    out: Annotated[Path, typer.Option("--out", help="The GLB to write.")],
    unit: UnitOption = "mm",
    rig: Annotated[
        Literal["arkit", "expressions", "both"], typer.Option(help="Apple's 52 shapes, six expressions, or both.")
    ] = "arkit",
    landmarks: Annotated[
        Path | None, typer.Option(help="Its landmarks (JSON, ljson, pp, CSV), where they are not to be found.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a head of your own the 52 ARKit shapes, computed for its face, on its own vertices and triangles.

    It is registered first (extra `landmarks`). Materials, textures and skins stay; eyeballs, teeth and tongue that are
    parts of their own move as such.

    Example: `meshgan rig head.glb --out rigged.glb`
    """
    if out.suffix.lower() != ".glb":
        raise UsageError(f"{out} should end in .glb.")
    from threadpoolctl import threadpool_limits

    from meshgan.registration.own_head import rig_head
    from meshgan.storage import atomic_file

    sought = "" if landmarks else "; its face is looked for first, from all sides where none is seen at once"
    print(f"Laying the template onto {head}{sought} …", file=sys.stderr, flush=True)
    with threadpool_limits(1, user_api="blas"):
        made = rig_head(head, unit, rig, landmarks)
    with atomic_file(out) as partial:
        partial.write_bytes(made.file)
    if as_json:
        print(json.dumps({"file": str(out), "targets": list(made.targets), "vertices": made.parts}))
        return
    parts = ", ".join(f"{name} {count:,}" for name, count in made.parts.items())
    print(f"Wrote {counted(len(made.targets), 'shape')} to {out}. Vertices of {parts}.")


def directions(
    model: Annotated[ModelName, typer.Argument(help="A model folder or a run folder.", **MODEL)],
    data: Annotated[Path, typer.Option("--data", help="The FaceSet with the labels.")],
    labels: Annotated[str, typer.Option(help="Columns of its label table, with commas between.")],
    only: Annotated[str, typer.Option(help="Use only faces with a label, as in kind=posed; commas between.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Find semantic directions (age, weight, expression, …) in a model's latent space and keep them with it.

    Prints how much of the faces' variance each label explains, how far its direction moves a face for one standard
    deviation of the label, and how well it moves only what it names. `compose` and the studio use the result.

    Example: `meshgan directions runs/first --data corpus --labels age,weight --only sex=female`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.evaluation.semantics import describe
    from meshgan.model.load import load_model
    from meshgan.model.model_folder import find_model

    pairs = [part.partition("=") for part in only.split(",") if part.strip()]
    if not all(equals and word.strip() for _, equals, word in pairs):
        raise UsageError(f"--only {only}: write column=word, with commas between.")
    columns, folder = [name.strip() for name in labels.split(",") if name.strip()], find_model(model)
    if folder.parent == SHIPPED:
        raise UsageError(f"{model} ships with meshgan and has its directions; copy {folder} and name the copy.")
    found = describe(load_model(folder), FaceSet.open(data), columns, {c.strip(): w.strip() for c, _, w in pairs})
    found.directions.save(folder)
    if as_json:
        print(json.dumps([asdict(meaning) for meaning in found.meanings], indent=2))
        return
    print("label             readable  variance  moves mm  response  selectivity  (naive)")
    for m in found.meanings:
        print(
            f"{m.label:16s}  {m.readable:8.2f}  {m.variance:8.1%}  {m.moves_mm:8.2f}  {m.response:8.2f}"
            f"  {m.selectivity:11.2f}  {m.naive_selectivity:7.2f}"
        )
