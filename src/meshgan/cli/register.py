"""`meshgan register` and `measure`: raw scans to a set of faces, and faces to numbers."""

import json
from pathlib import Path
from typing import Annotated

import typer

from meshgan.errors import UsageError
from meshgan.progress import counted


def register(
    scans: Annotated[list[Path], typer.Argument(help="Scans (OBJ, PLY, STL, GLB), or folders of them.")],
    out: Annotated[Path, typer.Option(help="The set of faces to write.")],
    unit: Annotated[str, typer.Option(help="Unit of the scans: mm, cm, m, or auto for a scale without a unit.")],
    template: Annotated[
        Path | None,
        typer.Option(help="A face mesh in millimetres that looks along +z, instead of the default template."),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Landmarks (JSON, ljson, pp, CSV) of the scan, or a folder with a file for each scan."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A trained identity model, or the name of one that ships, that guides the fit."),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Lay the template onto raw scans: a set of faces, with a report on every scan.

    Scans may be open, holed, noisy, turned in any way, with hair and shoulders. Without --landmarks they are found
    (extra `landmarks`). OUT/report.html shows how good each result is; a run that was cut goes on where it stopped. One
    into the OUT of an earlier run redoes what has changed, and only that.

    Example: `meshgan register scans/ --out faces --unit mm --workers 4`
    """
    from threadpoolctl import threadpool_limits

    from meshgan.registration.batch import register_all

    kinds = list(dict.fromkeys(name.strip().lower().lstrip(".") for name in formats.split(",") if name.strip()))
    with threadpool_limits(1, user_api="blas"):  # small systems: threads would only wait for each other, spinning
        result = register_all(
            scans, out, unit, template, landmarks, model, workers, scheduler, kinds, in_scan_frame, bake
        )
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        print(f"{result.summary()}\nThe set lies in {out}; look at {out / 'report.html'}.")


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
