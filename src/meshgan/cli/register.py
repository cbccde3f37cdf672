"""`meshgan register`: raw scans to a set of faces."""

import json
from pathlib import Path
from typing import Annotated

import typer


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
    in_scan_frame: Annotated[
        bool, typer.Option("--in-scan-frame", help="Also write each face as a PLY where it lies in its scan.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Lay the template onto raw scans: a set of faces, with a report on every scan.

    Scans may be open, holed, noisy, turned in any way, with hair and shoulders. Without --landmarks they are found
    (extra `landmarks`). OUT/report.html shows how good each result is; a run that was cut goes on where it stopped.

    Example: `meshgan register scans/ --out faces --unit mm --workers 4`
    """
    from meshgan.registration.batch import register_all

    result = register_all(scans, out, unit, template, landmarks, model, workers, scheduler, in_scan_frame)
    if as_json:
        print(json.dumps(result.as_dict()))
    else:
        print(f"{result.summary()}\nThe set lies in {out}; look at {out / 'report.html'}.")
