"""`meshgan data …`, `register` and `measure`: corpora, imports, raw scans to a set of faces, and what a set holds."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from meshgan.cli import JsonOption, ModelName, Verbs
from meshgan.errors import UsageError
from meshgan.progress import counted

Unit = Literal["mm", "cm", "m"]
SHEET = 24  # faces on a sheet of `info`
MOST_PEOPLE = 10_000_000  # of a corpus: 600 GB
UpOption = Annotated[
    str | None,
    typer.Option(help="The axis that is up: y, z, x, -y, … By default y, unless faces plainly stand otherwise."),
]
FrontOption = Annotated[
    str | None, typer.Option(help="The axis along which faces look. By default z, or -y where z is up.")
]

app = Verbs(help="Make, import and look at sets of faces.", no_args_is_help=True)


@app.command("import")
def import_folder(
    folder: Annotated[
        Path, typer.Argument(help="The folder of meshes (OBJ, PLY, GLB, STL); folders in it are read too.")
    ],
    out: Annotated[Path, typer.Argument(help="The set of faces to write.")],
    unit: Annotated[Unit, typer.Option(help="Unit of the meshes that do not say it: OBJ, PLY, STL.")],
    template: Annotated[Path | None, typer.Option(help="A mesh of the connectivity to compare with.")] = None,
    template_unit: Annotated[
        Unit | None, typer.Option(help="Unit of the template; by default mm, or that of the meshes if it fits.")
    ] = None,
    glb_unit: Annotated[Unit, typer.Option(help="Unit of GLB files, where it is not metres.")] = "m",
    up: UpOption = None,
    front: FrontOption = None,
    labels: Annotated[Path | None, typer.Option(help="A CSV with the columns file, subject and any others.")] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose first group is the subject in a file's name.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = os.cpu_count() or 1,
    as_json: JsonOption = False,
) -> None:
    """Make a set of faces of a folder of registered meshes of one connectivity.

    Without --template, the commonest connectivity counts, and the mean of its meshes is the template. All are moved
    rigidly onto it. What cannot be used is skipped, and OUT/report.csv says why. Without --labels and
    --subject-pattern, subjects are guessed from the names of folders and files; the guess is printed.

    Example: `meshgan data import scans faces --unit mm --subject-pattern "(S[0-9]+)_"`
    """
    from meshgan.data.corpora import folder as corpus

    result = corpus.import_folder(
        folder, out, unit, template, labels, subject_pattern, workers, glb_unit, template_unit, up, front
    )
    from meshgan.cli.main import in_options

    told = in_options(result.summary(), ["data", "import"])
    print(json.dumps(asdict(result)) if as_json else f"{told}\nThe set lies in {out}.")


@app.command("template")
def template(
    mesh: Annotated[Path, typer.Argument(help="A head or face (OBJ, PLY, GLB, STL), in any frame.")],
    out: Annotated[Path, typer.Argument(help="The template to write (PLY, OBJ, GLB or STL).")],
    vertices: Annotated[int, typer.Option(help="How many vertices the template has.")] = 5036,
    unit: Annotated[Unit, typer.Option(help="Unit of the mesh; a GLB is in metres.")] = "mm",
    glb_unit: Annotated[Unit, typer.Option(help="Unit of a GLB that is not in metres.")] = "m",
    radius: Annotated[float, typer.Option(help="Keep what lies within so many mm of the tip of the nose.")] = 110.0,
    landmarks: Annotated[Path | None, typer.Option(help="Named points on the mesh (json, ljson, pp, csv).")] = None,
    up: UpOption = None,
    front: FrontOption = None,
) -> None:
    """Turn a head into a face template: cut out the face, refine it, and reduce it to exactly so many vertices.

    With --landmarks, the nose's tip is taken from there, and NAME.landmarks.json beside OUT carries them over. The
    template looks along z with y up; --up and --front say how the mesh stands.

    Example: `meshgan data template head.obj template.ply --unit cm --vertices 5036`
    """
    from meshgan.data.corpora.folder import size_told
    from meshgan.data.template import landmark_names, make_template, turn_upright
    from meshgan.geometry.files import MILLIMETRES, read_mesh
    from meshgan.registration.landmarks import read_landmarks

    head, named = read_mesh(mesh, unit, glb_unit), {}
    is_glb = mesh.suffix.lower() == ".glb"
    own, option = (glb_unit, "glb_unit") if is_glb else (unit, "unit")
    if wrong := size_told(head, str(mesh), own, option):
        raise UsageError(f"{wrong}.")
    turn, told = turn_upright(head, str(mesh), up, front)
    head = head.with_vertices(head.vertices @ turn.T)
    if landmarks:
        found = read_landmarks(landmarks, landmark_names(), MILLIMETRES[own])
        named = {landmark_names()[index]: turn @ point for index, point in zip(found.index, found.points, strict=True)}
    result = make_template(head, vertices, centre=named.get("nose_tip"), radius_mm=radius)
    print("\n".join([*([told] if told else []), f"Wrote {', '.join(map(str, result.save(out, named)))}."]))


@app.command("anny-identities")
def anny_identities(
    out: Annotated[Path, typer.Argument(help="The set of faces to write.")],
    count: Annotated[int, typer.Option(min=1, max=MOST_PEOPLE, help="How many people.")] = 12000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Without detail and folds, as version 0.1 made them.")] = False,
) -> None:
    """Make the default corpus: neutral faces of a synthetic population, one for each subject.

    Needs no download; 12,000 people take about a minute on two cores, and 725 MB. The labels are subject, ancestry,
    sex, age, age_group, weight and build; the depths of folds in mm, the number of moles, and the asymmetry in mm.

    Example: `meshgan data anny-identities corpus --count 3000`
    """
    from meshgan.data.corpora import anny

    anny.make_identities(out, count, seed, plain)
    print(f"Made {counted(count, 'face')} in {out}; `meshgan data info {out}` describes the set.")


@app.command("anny-heads")
def anny_heads(
    out: Annotated[Path, typer.Argument(help="The set of heads to write.")],
    count: Annotated[int, typer.Option(min=1, max=MOST_PEOPLE, help="How many people.")] = 12000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same heads.")] = 0,
) -> None:
    """Make the corpus of whole heads: scalp, ears, neck, the inside of the mouth, eyeballs, teeth and tongue.

    They are the heads of the people of `meshgan data anny-identities` with the same seed, with the same faces and
    labels; 12,000 of them take 1.6 GB.

    Example: `meshgan data anny-heads heads --count 3000`
    """
    from meshgan.data.corpora import anny

    anny.make_heads(out, count, seed)
    print(f"Made {counted(count, 'head')} in {out}; `meshgan data info {out}` describes the set.")


@app.command("anny-expressions")
def anny_expressions(
    out: Annotated[Path, typer.Argument(help="The set of faces to write.")],
    subjects: Annotated[
        int, typer.Option(min=1, max=MOST_PEOPLE, help="How many people, each in two to four sessions.")
    ] = 180,
    posed: Annotated[
        int, typer.Option(min=0, max=MOST_PEOPLE, help="Faces at the apex of one of six expressions.")
    ] = 6651,
    spontaneous: Annotated[
        int, typer.Option(min=0, max=MOST_PEOPLE, help="Faces of every intensity: mixed, partial.")
    ] = 7567,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    noise_mm: Annotated[float, typer.Option(min=0, help="Root mean square length of the registration noise.")] = 0.1,
    part: Annotated[Literal["model", "classifier"], typer.Option(help="For whom: no subject is in both.")] = "model",
    plain: Annotated[bool, typer.Option("--plain", help="Sums of linear shapes, as in version 0.1.")] = False,
) -> None:
    """Make the default corpus of expressions: neutral, posed and spontaneous faces of a synthetic population.

    Needs no download; all of them take about a minute on two cores, and 0.9 GB.

    The labels are subject, session, expression, intensity, kind and row. `meshgan data decouple` takes the identity
    out. The classifier of expressions learns from people that no model has seen:
    `meshgan data anny-expressions faces --part classifier --posed 6000 --spontaneous 0`

    Example: `meshgan data anny-expressions expressions --subjects 40 --posed 600 --spontaneous 600`
    """
    from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions

    plan = ExpressionPlan(subjects, posed, spontaneous, seed, noise_mm, part, plain)
    make_expressions(out, plan)
    print(f"Made {counted(len(plan), 'face')} in {out}, {plan.neutrals} of them neutral.")


@app.command()
def scan(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A set of faces.")],
    out: Annotated[Path, typer.Argument(help="The folder of scans to write.")],
    count: Annotated[int, typer.Option(min=1, help="How many scans, each of another face.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scans.")] = 0,
) -> None:
    """Make raw scans of faces, whose truth is known: what a scanner would deliver, to try registration with.

    Other triangles, 0.2 mm of noise, holes, a border cut off, stray pieces, hair over half of them, a smooth head
    around, any pose, in metres. OUT/truth.csv names the face of each scan and where it stands.

    Example: `meshgan data scan corpus scans --count 20`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.registration.fake_scans import make_scans

    make_scans(FaceSet.open(path), out, count, seed)
    print(f"Made {counted(count, 'scan')} in {out}; truth.csv says what they show.")
    print(f"`meshgan register {out} --out faces --unit m` lays the template onto them.")


@app.command()
def decouple(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A set of faces with expressions.")],
    out: Annotated[Path, typer.Argument(help="The set of pure expressions to write.")],
    smoothing_mm: Annotated[
        float, typer.Option(min=0, help="How far the smoothing of displacements reaches; 0 for none.")
    ] = 1.5,
) -> None:
    """Put the expressions of a set on its template, without the identities.

    The set needs the labels subject, expression and, if people came more than once, session; each subject and
    session needs a face whose expression is `neutral`.

    Example: `meshgan data decouple expressions pure-expressions`
    """
    from meshgan.data.expression import decouple as decouple_set
    from meshgan.data.faceset import FaceSet

    count = decouple_set(FaceSet.open(path), out, smoothing_mm)
    print(f"Made {counted(count, 'face')} in {out}: the template with the expressions of {path}.")


@app.command()
def info(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A set of faces.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the description as JSON.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Also draw the first faces of the set (PNG).")] = None,
    spectrum: Annotated[
        Path | None, typer.Option(help="Also measure the detail of unseen faces by wavelength, and draw it (PNG).")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="With --spectrum, also measure this set: registered heads, say.")
    ] = None,
) -> None:
    """Say what a set of faces holds: where it comes from, how many faces and people, groups, split, size on disk.

    With `--spectrum`, also how much its faces vary by wavelength, in all and beyond 64 principal components, and what
    8 to 128 of them leave of people that they have not seen. `--beside` does so with all faces of another set of the
    same template, too: how far are those from what SET can say?

    Example: `meshgan data info corpus --sheet corpus.png --spectrum spectrum.png`
    """
    from meshgan.data.corpora.basis import layout_of
    from meshgan.data.faceset import FaceSet
    from meshgan.data.summary import ALL_BANDS, band_name, describe, measure_detail, summarise
    from meshgan.view.figures import band_chart, contact_sheet, worn

    if beside is not None and spectrum is None:
        raise UsageError("--beside goes with --spectrum.")
    faces, others = FaceSet.open(path), FaceSet.open(beside) if beside is not None else None
    summary = summarise(faces)
    found = measure_detail(faces, others) if spectrum is not None else None
    if as_json:
        print(json.dumps(summary | ({"spectrum": found.as_dict()} if found else {}), indent=2))
    else:
        print("\n".join([describe(summary), *([found.describe()] if found else [])]))
    if spectrum is not None and found is not None:
        band_chart(found.rows(), [band_name(band) for band in ALL_BANDS], spectrum)
    if sheet is not None:
        colour = worn(layout_of(faces.template))
        contact_sheet(faces[:SHEET], faces.template.triangles, sheet, colour=colour)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A set of faces.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of meshes to write.")],
    formats: Annotated[
        str, typer.Option("--format", help="ply, obj, stl, glb, or several with commas between.")
    ] = "ply",
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write every face of a set as a mesh of its own, with DIR/labels.csv, which `data import --labels` reads.

    PLY, OBJ and STL are in millimetres, GLB in metres. OBJ and GLB of the package's templates have texture coordinates.

    Example: `meshgan data export people --out meshes --format ply`
    """
    from meshgan.data.corpora.basis import layout_of
    from meshgan.data.faceset import FaceSet

    endings = list(dict.fromkeys(part.strip().lower().lstrip(".") for part in formats.split(",") if part.strip()))
    faces = FaceSet.open(path)
    written = faces.export(out, endings or [formats], layout_of(faces.template))
    if as_json:
        print(json.dumps([str(file) for file in written]))
        return
    print(f"Wrote {counted(len(written), 'mesh', 'meshes')} to {out}.")


def register(
    scans: Annotated[list[Path], typer.Argument(help="Scans (OBJ, PLY, STL, GLB), or folders of them.")],
    out: Annotated[Path, typer.Option(help="The set of faces to write.")],
    unit: Annotated[
        Literal["mm", "cm", "m", "auto"], typer.Option(help="Unit of the scans; auto for a scale without a unit.")
    ],
    template: Annotated[
        Path | None,
        typer.Option(help="A face mesh in millimetres that looks along +z, instead of the default template."),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Landmarks (JSON, ljson, pp, CSV) of the scan, or a folder with a file for each scan."),
    ] = None,
    model: Annotated[
        ModelName | None,
        typer.Option(
            metavar="RUN",
            parser=ModelName,
            help="A model of your own people, trained on the template, that guides the fit, too.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, instead of processes.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Meshes to write of each face: some of ply, glb, obj, stl.")
    ] = "ply",
    in_scan_frame: Annotated[
        bool, typer.Option("--in-scan-frame", help="Also write each face where it lies in its scan.")
    ] = False,
    bake: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Also textures: the scans' colours on the template's layout, so large."),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="The scans are frames of one person, in the order of their names; writes OUT/weights.csv.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Lay the template onto raw scans: a set of faces, with a report on every scan.

    Scans may be open, holed, noisy, turned in any way, with hair and shoulders. Without --landmarks they are found
    (extra `landmarks`), in the scan's own colours where it has a texture or colours of its vertices. OUT/report.html
    shows how good each result is; a run that was cut goes on where it stopped. One into the OUT of an earlier run
    redoes what has changed, and only that. A scan takes some seconds on one core.

    Example: `meshgan register scans/ --out faces --unit mm --workers 4`
    """
    from meshgan.registration.batch import register_all

    kinds = list(dict.fromkeys(name.strip().lower().lstrip(".") for name in formats.split(",") if name.strip()))
    result = register_all(
        scans, out, unit, template, landmarks, model, workers, scheduler, kinds, in_scan_frame, bake, sequence
    )
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        people = "" if sequence else f"{guessed_subjects(out)}\n"
        print(f"{result.summary()}\n{people}The set lies in {out}; look at {out / 'report.html'}.")


def guessed_subjects(path: Path) -> str:
    """Whose the faces of a registered set are, as far as the files' names tell."""
    from meshgan.data.corpora.naming import subjects_told
    from meshgan.data.faceset import FaceSet

    labels = FaceSet.open(path).labels
    told = subjects_told([dict(zip(labels, row, strict=True)) for row in zip(*labels.values(), strict=True)])
    return f"{told}; the column `subject` of labels.csv has them."


def measure(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A set of faces.")],
    out: Annotated[Path, typer.Option("--out", help="The CSV file to write.")],
    between: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B[,C]",
            help="Also measure between two landmarks, or the angle at the middle of three; repeatable.",
        ),
    ] = None,
    surface: Annotated[bool, typer.Option(help="Also lengths along the surface, which take most of the time.")] = True,
    change: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Also compare each person's later faces with the first; FILE.png shows where."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Measure faces: a row for each, with distances, angles, lengths along the surface, areas and volumes.

    The names are those of anthropometry: en-en, n-gn, ch-ch, …; docs/measure.md explains them. Lengths are in mm,
    angles in degrees, areas in mm², volumes in mm³.

    Example: `meshgan measure people --out table.csv --between nose_tip,chin_tip`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.registration.anthropometry import changes, write_changes, write_table
    from meshgan.registration.anthropometry import measure as measure_faces

    for file in (out, change):
        if file is not None and file.suffix.lower() != ".csv":
            raise UsageError(f"{file} should end in .csv.")
    faces = FaceSet.open(path)
    pairs = list(changes(faces)) if change is not None else []
    table = measure_faces(faces, [points.split(",") for points in between or ()], surface)
    write_table(table, out)
    if change is not None:
        write_changes(pairs, faces.template, change)
    if as_json:
        print(json.dumps(table))
        return
    print(f"Measured {counted(len(table), 'face')}, {len(table[0])} columns: {out}.")
    if change is not None:
        print(f"Compared {counted(len(pairs), 'face')} with earlier ones: {change}, {change.with_suffix('.png')}.")
