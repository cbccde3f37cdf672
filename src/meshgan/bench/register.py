"""How well and how fast scans are brought into correspondence, on faces whose correspondence is known.

Fake scans of corpus faces (other triangles, noise, holes, a border cut off, turned at random) go through the whole
of `meshgan register`, landmarks detected, not given. The face model that guides the fit comes from other people of the
same populations; so the same is done with faces that carry a smooth random deformation which no model knows, and, where
they are given, with real scans, of which only the surface and perhaps landmarks are known.

`kinds` asks of every kind of scan that is easily misread whether verdicts can be believed.
`foreign` measures the same on any set of faces of one connectivity, of people that no model here has seen. `chain`
goes the paper's whole way: faces become raw scans, scans become faces again, and what they have become is set beside
what they were, by wavelength, and by a model learned from either.

Then, on some scans, from the same landmarks and the same start, the model fit with non-rigid ICP, and non-rigid ICP
alone, are set beside `trimesh.registration.nricp_amberg` and MeshMonk with their own settings.
"""

import csv
import importlib
import importlib.util
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats
from meshgan.data.faceset import FaceSet, create_faceset, some_rows
from meshgan.data.principal import principal_components
from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.laplacian import BANDS, BandFilter
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface, barycentric_matrix, closest_points
from meshgan.progress import counted, track
from meshgan.registration.batch import register_all
from meshgan.registration.colours import ScanColours
from meshgan.registration.fake_scans import (
    MISREAD,
    FakeScan,
    corpus_people,
    estranged,
    fake_scan,
    fake_sequence,
    make_scans,
    plain_people,
    scan_of_kind,
)
from meshgan.registration.finding import Found, find_face, seen_in_colours
from meshgan.registration.jobs import Job, Settings, outcome_of, over_frames, plan, result_of, work_on
from meshgan.registration.landmarks import READERS, Detector, read_landmarks, silence
from meshgan.registration.nricp import folded, nonrigid_icp, unfolded
from meshgan.registration.painted_scans import Canvas, painted_picture, worn
from meshgan.registration.prior import Anchors, Prior, fit, learn
from meshgan.registration.quality import VERDICTS, judge, measure, stranger
from meshgan.registration.register import CONTOUR, Sighting, cropped, fit_model, lay, register, sight, sighted
from meshgan.registration.scan import Pull, calmed, cleaned
from meshgan.registration.template import FaceTemplate
from meshgan.registration.templates import default_template, load_template

FACES, STRANGE, COMPARED = 50, 12, 3
PEOPLE_SEED = 991  # people that the face model was not learned from
SCANNED, UNSEEN, CHAIN_COMPONENTS = 300, 300, (8, 16, 32, 64)
NETWORK_CODE, NETWORK_WIDTH, NETWORK_STEPS = 16, 128, 1000
KINDS = {
    "fake_scans": "fake scans of the corpora",
    "fake_scans_with_bumps": "the same with bumps that no model knows",
    "plain_people": "fake scans of the plain corpora",
    "plain_people_with_bumps": "the same with bumps",
}
BARE, FINE, OWN = "bare shape", "fine colours", "colours of vertices"
PARTS = {"brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68), "all but the jaw": (17, 68)}
AROUND = 10.0  # mm from landmarks: what counts as around a feature
GOOD_MM, BAD_MM = 1.5, 3.0  # mean error that good promises, and that no good face may have
ALONE, FLICKER_MM, TIMES_FASTER = 6, 0.1, 3.0  # of sequences: frames that are also registered alone, and the goals
LIMITS = {"mean_mm": 1.0, "p95_mm": 2.5, "folded": 0.001, "times_faster": 5.0}


def run(
    faces: int = FACES,
    strange: int = STRANGE,
    compared: int = COMPARED,
    plain: bool = False,
    scans: Sequence[Path] = (),
    model: Path | None = None,
) -> dict[str, Any]:
    """Errors against the truth over `faces` fake scans and `strange` others, and `compared` beside trimesh.

    With `plain`, a face model of plain people guides the fit, as that of version 0.1 did: the same scans, to see what
    the present one is worth; or a trained `model` does, as in `meshgan register --model`. Then nothing is set beside
    trimesh. `scans` are real ones.
    """
    template, strange = load_template(None, model), min(strange, faces)
    compared = 0 if plain or model is not None else min(compared, faces)
    if plain:
        template = replace(template, prior=_plain_model())
    summary: dict[str, Any] = {"limits": LIMITS, "real": {path.name: _real(path, template) for path in scans}}
    half = corpus_people((faces + 1) // 2, (faces + 1) // 2, PEOPLE_SEED)
    turns = np.arange(len(half)).reshape(2, -1).T.ravel()[:faces]  # neutral ones and expressions in turn
    for kind, people in (("fake_scans", half[turns]), ("plain_people", plain_people(faces, "bench"))):
        truth = people.astype(np.float64)
        fakes = _scans(truth, template)
        register(fakes[0].mesh, template)  # compiles
        summary[kind] = _errors(fakes, truth, template) | {"told_planes": told_planes(truth, template)}
        if strange:
            bent = [template.mesh.with_vertices(face) for face in truth[:strange]]
            others = np.array([estranged(face, np.random.default_rng([k, 1])) for k, face in enumerate(bent)])
            found = _errors(_scans(others, template), others, template)
            summary[f"{kind}_with_bumps"] = found | {"told_planes": told_planes(others, template)}
        if kind == "fake_scans" and compared:
            pairs = [_beside_trimesh(fakes[k], truth[k], template) for k in track(range(compared), "Comparing")]
            summary["beside_trimesh"] = {name: _mean([pair[name] for pair in pairs]) for name in pairs[0]}
    _show(summary)
    return summary


def _plain_model() -> Prior:
    """The face model of version 0.1: 200 components of 2,000 plain people, every other one with an expression."""
    return learn(plain_people(2000, "registration prior", 0.15), 200)


def _real(path: Path, template: FaceTemplate) -> dict[str, Any]:
    """Figures of one real scan, in millimetres or, if no human eyes are so far apart, in no unit.

    Landmarks in a file of the same name beside it are not used; how far the result is from them is told, with the jaw
    line and without.
    """
    mesh = read_mesh(path)
    try:
        result = register(mesh, template, colours=ScanColours(path, "mm"))
    except MeshganError:
        result = register(mesh, template, unit="auto", colours=ScanColours(path, "mm"))
    quality = measure(result, template)
    figures: dict[str, Any] = {"verdict": judge(quality)[0], "coverage": quality.coverage, "folded": quality.folded}
    figures |= {"median_mm": quality.median_mm, "p95_mm": quality.p95_mm}
    for marks in (path.with_suffix(ending) for ending in READERS):
        if marks.is_file():
            given = read_landmarks(marks, template.landmark_names)
            here = result.to_scan(template.landmark_rows[given.index] @ result.vertices)
            missed = np.linalg.norm(here - given.points, axis=1)
            figures["landmarks_mm"] = float(missed.mean())
            figures["without_jaw_mm"] = float(missed[given.index >= CONTOUR].mean())
            break
    return figures


def _scans(faces: Floats, template: FaceTemplate) -> list[FakeScan]:
    return [fake_scan(template.mesh.with_vertices(face), np.random.default_rng(k)) for k, face in enumerate(faces)]


def _errors(scans: Sequence[FakeScan], faces: Floats, template: FaceTemplate) -> dict[str, Any]:
    """Figures over all scans (N) of `faces` (N, V, 3). Without a result there is no error: those are counted."""
    pairs = list(zip(scans, faces, strict=True))
    results = [_whole(scan.mesh, scan.pose(face), template) for scan, face in track(pairs, "Registering")]
    found = [result for result in results if result is not None]
    verdicts = Counter(result["verdict"] for result in found)
    return {
        "faces": len(scans),
        "without_result": len(scans) - len(found),
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        "mean_mm": float(np.mean([result["error_mm"] for result in found])),
        "p95_mm": float(np.percentile(np.concatenate([result["errors_mm"] for result in found]), 95)),
        "worst_face_mm": float(max(result["error_mm"] for result in found)),
        "scan_to_surface_median_mm": float(np.median([result["median_mm"] for result in found])),
        "folded": float(np.mean([result["folded"] for result in found])),
        "worst_folded": float(max(result["folded"] for result in found)),
        "folded_against_truth": float(np.mean([result["folded_against_truth"] for result in found])),
        "seconds_a_scan": float(np.median([result["seconds"] for result in found])),
        "face_mm": [result and result["error_mm"] for result in results],
    }


def told_planes(faces: Floats, template: FaceTemplate) -> dict[str, float]:
    """How far along the surface the places lie that the face model finds on faces (N, V, 3), told the plane of each.

    A surface says no more of a vertex than the plane that it lies on, and a scan says even that with noise, holes, and
    planes of nearest points in place of the right ones. So this is what shape alone can tell the model.
    """
    missed = np.array([_slid(face, template) for face in faces])
    return {"mean_mm": float(missed.mean()), "p95_mm": float(np.percentile(missed, 95))}


def _slid(face: Floats, template: FaceTemplate) -> Floats:
    """How far (V,) the places of a face (V, 3) slide along it."""
    goal = rigid(face, template.prior.mean)(face)
    normals = template.drawn.normals(goal)
    planes = Pull(goal, normals, np.zeros(len(goal)), np.where(template.eyeballs, -1.0, 1.0))
    unmarked = Anchors(sp.csr_array((0, len(goal))), np.empty((0, 3)), np.empty(0))
    away = fit(template.prior, unmarked, Similarity.none(), lambda _: planes).vertices - goal
    along = away - np.einsum("vc,vc->v", away, normals)[:, None] * normals
    return np.asarray(np.linalg.norm(along, axis=1), dtype=np.float64)


def _whole(mesh: Mesh, truth: Floats, template: FaceTemplate) -> dict[str, Any] | None:
    """One scan through everything; None if there is no result, not even a bad one."""
    start = time.perf_counter()
    try:
        result = register(mesh, template)
    except MeshganError:
        return None
    seconds = time.perf_counter() - start
    quality = measure(result, template)
    vertices = result.to_scan(result.vertices)
    errors = np.linalg.norm(vertices - truth, axis=1)
    return {
        "error_mm": float(errors.mean()),
        "errors_mm": errors,
        "median_mm": quality.median_mm,
        "verdict": judge(quality)[0],
        "folded": quality.folded,
        "folded_against_truth": float(folded(template.mesh.with_vertices(vertices), truth).mean()),
        "seconds": seconds,
    }


def _beside_trimesh(fake: FakeScan, face: Floats, template: FaceTemplate) -> dict[str, dict[str, float]]:
    """Both methods from one sighting on one scan, and trimesh's in its two ways of finding closest points."""
    sighting, scan, to_scan = sight(fake.mesh, template)
    goal = to_scan.inverse(fake.pose(face))
    methods = _methods() | {"trimesh, vertices": partial(_theirs, use_faces=False)}
    return {
        name: _timed(partial(method, scan, sighting, template), goal, Surface(scan), template)
        for name, method in methods.items()
    }


def _methods() -> dict[str, Callable[[Mesh, Sighting, FaceTemplate], Floats]]:
    """What lays a template onto a scan from one start: ours, and others with their own settings.

    MeshMonk (White et al. 2019) is among them if PyPI's `meshmonk` (0.3.0) is installed.
    """
    ways: dict[str, Callable[[Mesh, Sighting, FaceTemplate], Floats]] = {
        "meshgan": _ours,
        "meshgan, no face model": _ours_alone,
        "trimesh, faces": partial(_theirs, use_faces=True),
    }
    if importlib.util.find_spec("meshmonk") is not None:
        ways["meshmonk"] = _monk
    return ways


def _timed(method: Callable[[], Floats], goal: Floats, surface: Surface, template: FaceTemplate) -> dict[str, float]:
    start = time.perf_counter()
    vertices = method()
    return {
        "seconds": time.perf_counter() - start,
        "error_mm": float(np.linalg.norm(vertices - goal, axis=1).mean()),
        "surface_mm": float(np.median(surface.closest(vertices).distance)),
        "folded": float(folded(template.mesh.with_vertices(vertices), goal).mean()),
    }


def _ours(scan: Mesh, sighting: Sighting, template: FaceTemplate) -> Floats:
    surface = Surface(scan)
    fitted = fit_model(sighting, surface, template)
    pull = partial(template.drawn.pull, surface=surface)
    *_, last = nonrigid_icp(fitted.vertices, pull, template.nodes, template.mesh.edges, sighting.anchors)
    return unfolded(template.mesh.with_vertices(last.vertices), fitted.vertices)


def _ours_alone(scan: Mesh, sighting: Sighting, template: FaceTemplate) -> Floats:
    """Non-rigid ICP from the template itself, as Amberg et al. do it: no model says where on a face things lie."""
    pull = partial(template.drawn.pull, surface=Surface(scan))
    start = sighting.pose(template.mesh.vertices)
    *_, last = nonrigid_icp(start, pull, template.nodes, template.mesh.edges, sighting.anchors)
    return unfolded(template.mesh.with_vertices(last.vertices), start)


def _theirs(scan: Mesh, sighting: Sighting, template: FaceTemplate, use_faces: bool) -> Floats:
    import trimesh

    nricp_amberg: Any = trimesh.registration.nricp_amberg  # without types
    start = template.mesh.with_vertices(sighting.pose(template.mesh.vertices))
    marks = closest_points(sighting.anchors.rows @ start.vertices, start)
    found = nricp_amberg(
        trimesh.Trimesh(start.vertices, start.triangles, process=False),
        trimesh.Trimesh(scan.vertices, scan.triangles, process=False),
        source_landmarks=(marks.triangle, marks.barycentric),
        target_positions=sighting.anchors.targets,
        use_faces=use_faces,
    )
    return np.asarray(found, dtype=np.float64)


def _monk(scan: Mesh, sighting: Sighting, template: FaceTemplate) -> Floats:
    """MeshMonk's pyramid, which knows no landmarks: its start is the pose alone."""
    meshmonk: Any = importlib.import_module("meshmonk")
    start = template.mesh.with_vertices(sighting.pose(template.mesh.vertices))
    sides = [(np.asarray(m.vertices, np.float32), np.asarray(m.triangles, np.int32)) for m in (start, scan)]
    with silence():  # it tells of every triangle that its meshes leave out
        features = [meshmonk.features_from_vertices(*side) for side in sides]
        found = meshmonk.pyramid_register(
            floating_features=features[0],
            target_features=features[1],
            floating_faces=sides[0][1],
            target_faces=sides[1][1],
        )
    return np.asarray(found.aligned_vertices, dtype=np.float64)


def kinds(count: int, seed: int) -> dict[str, Any]:
    """Whether verdicts can be believed: `count` fake scans of every kind that is easily misread, judged as one run.

    The people, neutral ones and where a kind has no expression of its own expressions in turn, are those of a `seed`.
    *Good* promises a mean error of at most `GOOD_MM`, and of the faces beyond `BAD_MM` none should be called so.
    """
    template, names = default_template(), list(MISREAD)
    size = (count * len(names) + 1) // 2
    people = np.split(corpus_people(size, size, seed).astype(np.float64), 2)
    rows: list[dict[str, Any]] = []
    for k, (place, name) in track(list(itertools.product(range(count), enumerate(names))), "registering"):
        moved = k % 2 == 1 and not MISREAD[name].performs
        face = template.mesh.with_vertices(people[int(moved)][(k * len(names) + place) // 2])
        rng = np.random.default_rng([seed, k, place])
        scan, truth = scan_of_kind(name, face, template.landmark_rows, rng)
        rows.append({"kind": name} | _judged(scan, truth, MISREAD[name].unit, template))
    known = [row for row in rows if "error_mm" in row]
    for row, why in zip(known, stranger([row["strange_mm"] for row in known]), strict=True):
        if why:
            row["verdict"], row["reason"] = "check", "; ".join(filter(None, (row["reason"], why)))
    summary: dict[str, Any] = {"scans": rows, "kinds": {}}
    for name in [*names, "all"]:
        some = [row for row in rows if name in (row["kind"], "all")]
        found = [row for row in some if "error_mm" in row]
        errors = np.array([row["error_mm"] for row in found])
        table = _confusion([row["verdict"] for row in found], errors)
        mean = float(errors.mean()) if len(errors) else np.nan
        summary["kinds"][name] = {"without_result": len(some) - len(found), "error_mm": mean, **table}
    _show_kinds(summary)
    return summary


def colours(count: int, seed: int) -> dict[str, Any]:
    """What a scan's own colours are worth: `count` fake scans with and without bumps, in painted colours.

    Every other person has an expression. Each scan is registered by its bare shape, with fine colours (of vertices half
    as far apart as the scan's), and with those of its own vertices, from one search by shape. Told are how far the
    detector's landmarks and the result's are from the truth, and the errors of the result.
    """
    template, canvas = default_template(), Canvas(default_template())
    half = corpus_people((count + 1) // 2, (count + 1) // 2, seed).astype(np.float64)
    people = half[np.arange(len(half)).reshape(2, -1).T.ravel()[:count]]
    rows: list[dict[str, Any]] = []
    with Detector() as detector:
        for k, bumps in track(list(itertools.product(range(count), (False, True))), "Registering"):
            rng = np.random.default_rng([seed, k, bumps])
            face = template.mesh.with_vertices(people[k])
            if bumps:
                face = face.with_vertices(estranged(face, rng))
            scan, picture = fake_scan(face, rng), painted_picture(canvas, face.vertices, rng)
            try:
                found = find_face(scan.mesh, detector, template)
            except MeshganError:
                continue
            for way, painted in ((BARE, None), (FINE, worn(scan, face, picture, 1)), (OWN, worn(scan, face, picture))):
                start = time.perf_counter()
                seen = None if painted is None else seen_in_colours(painted, found, detector, template)
                seconds = time.perf_counter() - start
                missed = _missed(seen or found, scan, scan.pose(face.vertices), template)
                rows.append({"way": way, "bumps": bumps, "used": seen is not None, "seconds": seconds} | missed)
    ways = _by_way(rows)
    for name, row in ways.items():
        print(f"{name}: {row['scans']:.0f} scans, colours used in {row['used']:.0%}, {row['seconds']:.2f} s")
        for which in ("detector", "result"):
            print(
                f"  landmarks of the {which:8s} " + "  ".join(f"{part} {row[f'{which} {part}']:.2f}" for part in PARTS)
            )
        print(f"  mean error {row['error_mm']:.2f} mm, 95 % {row['p95_mm']:.2f}")
    return {"scans": rows, "ways": ways}


def _missed(found: Found, scan: FakeScan, truth: Floats, template: FaceTemplate) -> dict[str, float]:
    """How far landmarks found, those of the result, and its vertices are from the truth (V, 3), in mm."""
    sighting, whole = sighted(found, template), calmed(cleaned(scan.mesh))
    to_scan = Similarity(1.0, sighting.pose.rotation, sighting.pose.translation)
    part = cropped(whole, template, sighting.pose, to_scan)
    result = lay(sighting.seen_from(to_scan), part, to_scan, template)
    vertices = result.to_scan(result.vertices)
    marks, errors = template.landmark_rows @ truth, np.linalg.norm(vertices - truth, axis=1)
    seen = np.full(len(marks), np.nan)
    index = sighting.landmarks.index
    seen[index] = np.linalg.norm(sighting.landmarks.points - marks[index], axis=1)
    laid = np.linalg.norm(template.landmark_rows @ vertices - marks, axis=1)
    figures = {"error_mm": float(errors.mean()), "p95_mm": float(np.percentile(errors, 95))}
    for name, (first, last) in PARTS.items():
        known = seen[first:last][np.isfinite(seen[first:last])]
        figures[f"detector {name}"] = float(known.mean()) if len(known) else np.nan
        figures[f"result {name}"] = float(laid[first:last].mean())
    return figures


def _by_way(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The means of each way's figures, of scans without bumps and with them."""
    ways = {}
    for bumps, way in itertools.product((False, True), (BARE, FINE, OWN)):
        some = [row for row in rows if row["way"] == way and row["bumps"] == bumps]
        if some:
            means = {
                key: float(np.nanmean([row[key] for row in some])) for key in some[0] if key not in ("way", "bumps")
            }
            ways[f"{way}, with bumps" if bumps else way] = {"scans": float(len(some))} | means
    return ways


def _judged(scan: FakeScan, truth: Floats, unit: str, template: FaceTemplate) -> dict[str, Any]:
    """Error, verdict and figures of one scan; without a result, the reason alone."""
    try:
        result = register(scan.mesh, template, unit=unit)
    except MeshganError as error:
        return {"reason": str(error)}
    quality = measure(result, template)
    verdict, reason = judge(quality)
    missed = np.linalg.norm(result.to_scan(result.vertices) - truth, axis=1).mean() / scan.pose.scale
    return {"error_mm": float(missed), "verdict": verdict, "reason": reason, **asdict(quality)}


def _show_kinds(summary: dict[str, Any]) -> None:
    within, beyond, far = f"within_{GOOD_MM:g}_mm", f"beyond_{GOOD_MM:g}_mm", f"beyond_{BAD_MM:g}_mm"
    columns = f"good   beyond {GOOD_MM:g}   beyond {BAD_MM:g}"
    print(f"{'kind':14s} no result   error mm   {columns}   check{columns[4:]}")
    for name, row in summary["kinds"].items():
        cells = f"{name:14s} {row['without_result']:9d} {row['error_mm']:10.2f} "
        for counts in (row["good"], row["check"]):
            cells += f"{counts[within] + counts[beyond]:7d} {counts[beyond]:12d} {counts[far]:10d}"
        print(cells)


def foreign(faces: FaceSet, count: int) -> dict[str, Any]:
    """How well places are met on faces that the model knows nothing of, by each method from the same start.

    The faces (of one connectivity, which no method is shown) are registered one by one. A vertex of the template
    lands at some place of the first face's triangles; on another face it should land at the same place. The error is
    the distance from there, averaged over the inside of the face and over all faces but the first: of the same person
    as the first one, and of others.
    """
    template = default_template()
    rows = some_rows(np.arange(len(faces)), count)
    placed: dict[str, list[Floats | None]] = {}
    seconds: dict[str, list[float]] = {}
    for row in track(rows, "Registering"):
        mesh = faces.template.with_vertices(np.asarray(faces.vertices[row], dtype=np.float64))
        for name, vertices, took in _by_each_method(mesh, template):
            placed.setdefault(name, []).append(vertices)
            seconds.setdefault(name, []).append(took)
    who, around = faces.subjects[rows], _around_features(template)
    summary: dict[str, Any] = {}
    for name, results in placed.items():
        known = [k for k, vertices in enumerate(results) if vertices is not None]
        errors = {
            k: _place_errors(faces, rows[known[0]], rows[k], results[known[0]], results[k], template) for k in known[1:]
        }
        table: dict[str, Any] = {
            "without_result": len(rows) - len(known),
            "seconds": float(np.median(seconds[name])),
            "face_mm": {int(rows[k]): float(missed[template.inside].mean()) for k, missed in errors.items()},
        }
        for kind, same in (("same_person", True), ("others", False)):
            some = [missed for k, missed in errors.items() if (who[k] == who[known[0]]) == same]
            for part, chosen in {"": template.inside, **around}.items():
                key = f"{kind}_{part}_mm" if part else f"{kind}_mm"
                table[key] = float(np.mean([missed[chosen] for missed in some])) if some else None
        summary[name] = table
    print(f"{len(rows)} faces of {faces.path}: places missed, mm     same person     others   seconds")
    _tell_foreign(summary, around)
    return {"faces": len(rows), "set": faces.card.name, "methods": summary}


def _tell_foreign(summary: dict[str, Any], parts: Iterable[str]) -> None:
    """Print a row for each method, and for faces of the same person and of others one by part of the face."""

    def cell(table: dict[str, Any], key: str, width: int) -> str:
        return ("-" if table[key] is None else f"{table[key]:.2f}").rjust(width)

    for name, table in summary.items():
        print(
            f"  {name:45s} {cell(table, 'same_person_mm', 11)} {cell(table, 'others_mm', 10)} {table['seconds']:9.2f}"
        )
    known = [k for k in ("same_person", "others") if any(table[f"{k}_mm"] is not None for table in summary.values())]
    for kind in known:
        print(f"  {kind.replace('_', ' '):43s}" + "".join(f"{part:>{len(part) + 4}}" for part in parts))
        for name, table in summary.items():
            print(f"    {name:41s}" + "".join(cell(table, f"{kind}_{part}_mm", len(part) + 4) for part in parts))


def _around_features(template: FaceTemplate) -> dict[str, Booleans]:
    """What of the template's inside (V,) lies within `AROUND` of landmarks of each part of a face, and of none but the
    jaw's."""
    marks = template.landmark_rows @ template.mesh.vertices
    parts = {"jaw": (0, CONTOUR), **PARTS}
    near = {name: cKDTree(marks[a:b]).query(template.mesh.vertices)[0] < AROUND for name, (a, b) in parts.items()}
    near["elsewhere"] = ~near["all but the jaw"]
    return {name: chosen & template.inside for name, chosen in near.items()}


def _by_each_method(mesh: Mesh, template: FaceTemplate) -> Iterator[tuple[str, Floats | None, float]]:
    """Name, vertices (V, 3) in the frame of `mesh` and seconds of each method; None where no face was found."""
    try:
        sighting, scan, to_scan = sight(mesh, template)
    except MeshganError:
        yield from ((name, None, 0.0) for name in _methods())
        return
    for name, method in _methods().items():
        start = time.perf_counter()
        vertices = method(scan, sighting, template)
        yield name, to_scan(vertices), time.perf_counter() - start


def _place_errors(
    faces: FaceSet, first: int, second: int, on_first: Floats | None, on_second: Floats | None, template: FaceTemplate
) -> Floats:
    """How far (V,), in mm, the vertices on the second face are from where they should be by those on the first."""
    assert on_first is not None
    assert on_second is not None
    one, two = (
        faces.template.with_vertices(np.asarray(faces.vertices[row], dtype=np.float64)) for row in (first, second)
    )
    places = barycentric_matrix(closest_points(on_first, one), one) @ two.vertices
    return np.asarray(np.linalg.norm(on_second - places, axis=1), dtype=np.float64)


def chain(faces: FaceSet, out: Path, count: int = SCANNED) -> dict[str, Any]:
    """What a set of faces loses on the way through raw scans and `meshgan register`, by wavelength and to a model.

    `count` faces (V, 3) are scanned into `out/scans` and registered into `out/registered`; the true faces of those that
    were found lie in `out/true`, in the same order, for models to be trained on either. A run that was cut goes on, and
    of scans that are there already the first `count` are used.

    Reported are, by band of wavelength, the energy of the true faces about their mean, that of the registered ones, and
    that of the difference between the two; and how far from unseen true faces a PCA of either and a small network stay.
    """
    if not (out / "scans" / "truth.csv").is_file():
        make_scans(faces, out / "scans", count)
    with (out / "scans" / "truth.csv").open(newline="", encoding="utf-8") as stream:
        row_of = {line["file"]: int(line["row"]) for line in itertools.islice(csv.DictReader(stream), count)}
    result = register_all([out / "scans" / name for name in row_of], out / "registered", "m")
    found = FaceSet.open(out / "registered")
    rows = np.array([row_of[name] for name in found.labels["file"]])
    with create_faceset(out / "true", faces.template, len(rows), faces.card, _all_anew, listed=True) as writer:
        labels = [{name: column[row] for name, column in faces.labels.items()} for row in rows]
        writer.append(faces.vertices[rows], labels)
    true = np.asarray(faces.vertices[rows], dtype=np.float64)
    registered = np.asarray(found.vertices, dtype=np.float64)
    placed = rigid(registered, true)(registered)
    filters = BandFilter.of(faces.template)
    energies = {
        "true": filters.energies(true - true.mean(axis=0)),
        "registered": filters.energies(placed - placed.mean(axis=0)),
        "difference": filters.energies(placed - true),
    }
    others = np.flatnonzero(~np.isin(faces.subjects, faces.subjects[list(row_of.values())]))
    unseen = np.asarray(faces.vertices[some_rows(others, UNSEEN)], dtype=np.float64)
    errors = np.linalg.norm(placed - true, axis=2)
    told = {scan.scan: scan.verdict for scan in result.scans}
    summary = {
        "scans": len(row_of),
        "registered": {"good": result.good, "check": result.check, "failed": result.failed},
        "error_mm": float(errors.mean()),
        "p95_mm": float(np.percentile(errors, 95)),
        "verdicts": _confusion([told.get(name, "") for name in found.labels["file"]], errors.mean(axis=1)),
        "bands_mm": [list(band) for band in BANDS],
        "energies_mm2": {name: values.mean(axis=0).tolist() for name, values in energies.items()},
        "unseen": len(unseen),
        "pca_mm": {name: _pca_errors(set_, unseen) for name, set_ in (("true", true), ("registered", placed))},
        "network_mm": {name: _network_error(set_, unseen) for name, set_ in (("true", true), ("registered", placed))},
    }
    _show_chain(summary)
    return summary


def sequence(frames: int) -> dict[str, Any]:
    """What following a person from frame to frame is worth beside registering each frame by itself.

    Two fake sequences of one person, of which every place is known: in one the face is still, in the other it moves.
    `ALONE` frames of each are also registered alone, in turns with the sequence, so that times can be compared: the
    processor's, from a file to its result with pictures. Flicker is the standard deviation of a vertex of the face's
    inside over the frames, as a length in space, in the frame of the head.
    """
    template, summary = default_template(), {}
    person = corpus_people(1, 1, PEOPLE_SEED)[0]
    for kind in ("still", "moving"):
        scans, faces, weights = fake_sequence(person, frames, kind == "moving")
        with TemporaryDirectory(prefix="meshgan-") as folder:
            named = [(Path(folder) / f"frame-{k}.ply", f"frame-{k}.ply", None) for k in range(frames)]
            for (path, *_), scan in zip(named, scans, strict=True):
                write_mesh(path, scan.mesh)
            alone = dict(zip(range(frames), plan(named, Settings("mm"), Path(folder)), strict=True))
            compared = set(some_rows(np.arange(frames), ALONE).tolist())
            jobs, seconds = plan(named, Settings("mm", sequence=True), Path(folder)), _Stopwatch()
            followed = over_frames([], jobs)
            for row in track(range(frames), f"{kind} face"):
                next(followed)
                seconds.lap("sequence")
                if row in compared:
                    work_on(alone[row])
                    seconds.lap("alone")
            some = sorted(compared)
            summary[kind] = {
                "sequence": _frame_figures(jobs, scans, faces, weights, template),
                "alone": _frame_figures(
                    [alone[row] for row in some], [scans[row] for row in some], faces[some], weights[some], template
                ),
                "seconds": {name: float(np.median(laps[1:])) for name, laps in seconds.laps.items()},
            }
    _show_sequence(summary)
    return summary


class _Stopwatch:
    """Seconds of processor time between calls, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, list[float]] = {}
        self._start = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps.setdefault(name, []).append(now - self._start)
        self._start = now


def _frame_figures(
    jobs: Sequence[Job], scans: Sequence[FakeScan], faces: Floats, weights: Floats, template: FaceTemplate
) -> dict[str, Any]:
    """Figures of the frames that have a result."""
    outcomes = [outcome_of(job) for job in jobs]
    known = [row for row, outcome in enumerate(outcomes) if outcome is not None and outcome.verdict != "failed"]
    results = [result_of(jobs[row]) for row in known]
    errors = [
        np.linalg.norm(result.to_scan(result.vertices) - scans[row].pose(faces[row]), axis=1)
        for row, result in zip(known, results, strict=True)
    ]
    flicker = np.sqrt(np.var([result.vertices for result in results], axis=0).sum(axis=1))[template.inside]
    missed = [
        np.abs(result.moment.weights - weights[row]).mean()
        for row, result in zip(known, results, strict=True)
        if result.moment is not None
    ]
    return {
        "frames": len(jobs),
        "verdicts": dict(Counter(outcome.verdict for outcome in outcomes if outcome is not None)),
        "error_mm": float(np.mean(errors)),
        "p95_mm": float(np.percentile(errors, 95)),
        "worst_frame_mm": float(np.mean(errors, axis=1).max()),
        "flicker_mm": float(flicker.mean()),
        "flicker_p95_mm": float(np.percentile(flicker, 95)),
        "weights_missed": float(np.mean(missed)) if missed else None,
    }


def _show_sequence(summary: dict[str, Any]) -> None:
    for kind, figures in summary.items():
        seconds = figures["seconds"]
        print(f"a {kind} face                 frames   error mm    95 %   worst frame   seconds of processor time")
        for name in ("sequence", "alone"):
            row = figures[name]
            print(
                f"  {name:28s} {row['frames']:5d} {row['error_mm']:10.2f} {row['p95_mm']:7.2f} "
                f"{row['worst_frame_mm']:13.2f} {seconds[name]:10.2f}"
            )
            if kind == "still":
                print(f"    flicker {row['flicker_mm']:.3f} mm, 95 % {row['flicker_p95_mm']:.3f} (limit {FLICKER_MM})")
        print(f"  {seconds['alone'] / seconds['sequence']:.1f} times as fast (limit {TIMES_FASTER})")
        print(f"  weights are missed by {figures['sequence']['weights_missed']:.3f} on the mean")


def _pca_errors(faces: Floats, unseen: Floats) -> dict[str, float]:
    """Mean distances in mm, by number of components, from unseen faces to what a PCA of `faces` says of them."""
    most = min(max(CHAIN_COMPONENTS), len(faces) - 1)
    found = principal_components(faces.astype(np.float32), np.arange(len(faces)), most)
    away = (rigid(unseen, found.mean)(unseen) - found.mean).reshape(len(unseen), -1)
    errors = {}
    for count in CHAIN_COMPONENTS:
        axes = found.axes[:count].reshape(min(count, len(found.axes)), -1).astype(np.float64)
        left = away - (away @ axes.T) @ axes
        errors[str(count)] = float(np.linalg.norm(left.reshape(len(left), -1, 3), axis=2).mean())
    return errors


def _confusion(verdicts: Sequence[str], errors: Floats) -> dict[str, dict[str, int]]:
    """How many faces of each verdict have a mean error (N,) within what good promises, beyond it, and far beyond."""
    told = np.array(verdicts)
    return {
        verdict: {
            f"within_{GOOD_MM:g}_mm": int(((told == verdict) & (errors <= GOOD_MM)).sum()),
            f"beyond_{GOOD_MM:g}_mm": int(((told == verdict) & (errors > GOOD_MM)).sum()),
            f"beyond_{BAD_MM:g}_mm": int(((told == verdict) & (errors > BAD_MM)).sum()),
        }
        for verdict in ("good", "check")
    }


def _all_anew(path: PurePath) -> bool:
    """Nothing of an earlier set of true faces is kept."""
    return False


def _network_error(faces: Floats, unseen: Floats) -> float:
    """Mean distance in mm from unseen faces (M, V, 3) to what a small auto-encoder of some (N, V, 3) says of them.

    It works on principal coordinates and starts as PCA with a code as large, to which a perceptron on each side adds
    what it learns. A tenth of the faces says when to stop.
    """
    import torch

    from meshgan.nn.networks import SmallCode, rebuilding

    torch.manual_seed(0)
    count = min(max(CHAIN_COMPONENTS), len(faces) - 1)
    found = principal_components(faces.astype(np.float32), np.arange(len(faces)), count)
    axes, code = found.axes.reshape(len(found.axes), -1).astype(np.float64), min(NETWORK_CODE, len(found.axes))
    away = (rigid(unseen, found.mean)(unseen) - found.mean).reshape(len(unseen), -1)
    known = (faces - found.mean).reshape(len(faces), -1) @ axes.T
    size = known.std(axis=0).max()
    told, stop = (torch.from_numpy(part / size).float() for part in (known, known[::10]))
    told = told[np.arange(len(told)) % 10 != 0]

    network = SmallCode(len(axes), code, (NETWORK_WIDTH,), from_components=True)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
    best, answer = np.inf, np.zeros(0)
    wanted = torch.from_numpy(away @ axes.T / size).float()
    for step in range(NETWORK_STEPS + 1):
        if step % 50 == 0:
            with torch.no_grad():
                error = float(rebuilding(network, stop))
                if error < best:
                    best, answer = error, network(wanted).double().numpy() * size
        optimiser.zero_grad()
        rebuilding(network, told).backward()
        optimiser.step()
    return float(np.linalg.norm((away - answer @ axes).reshape(len(away), -1, 3), axis=2).mean())


def _show_chain(summary: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary["registered"].items())
    print(
        f"{counted(summary['scans'], 'scan')}: {counts}; mean error {summary['error_mm']:.2f} mm, "
        f"95 % {summary['p95_mm']:.2f}"
    )
    for verdict, row in summary["verdicts"].items():
        print(f"  {verdict}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in row.items()))
    print("energy in mm² by wavelength in mm     " + " ".join(f"{a:g}-{b:g}".rjust(9) for a, b in summary["bands_mm"]))
    for name, values in summary["energies_mm2"].items():
        print(f"  {name:34s}  " + " ".join(f"{value:9.4f}" for value in values))
    print(f"PCA of either on {summary['unseen']} unseen true faces, mm, by components")
    for name, errors in summary["pca_mm"].items():
        print(f"  {name:34s}  " + "  ".join(f"{count}: {error:.3f}" for count, error in errors.items()))
    network = ", ".join(f"{name} {error:.3f}" for name, error in summary["network_mm"].items())
    print(f"a network with a code of {NETWORK_CODE} that starts as PCA, mm: {network}")


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _show(summary: dict[str, Any]) -> None:
    for kind, name in KINDS.items():
        if kind in summary:
            _show_errors(name, summary[kind])
    for name, row in summary["real"].items():
        away = ""
        if "landmarks_mm" in row:
            away = f"; landmarks {row['landmarks_mm']:.2f}, without the jaw line {row['without_jaw_mm']:.2f}"
        print(
            f"{name}: {row['verdict']}; scan → result {row['median_mm']:.2f} mm, 95 % {row['p95_mm']:.2f}; "
            f"coverage {row['coverage']:.0%}; folded {row['folded']:.2%}{away}"
        )
    if "beside_trimesh" not in summary:
        return
    print("same landmarks, start and scan:   seconds   error mm   surface mm   folded")
    for name, row in summary["beside_trimesh"].items():
        figures = f"{row['seconds']:9.2f} {row['error_mm']:10.2f} {row['surface_mm']:12.3f} {row['folded']:8.3%}"
        print(f"  {name:30s}{figures}")


def _show_errors(what: str, row: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in row["verdicts"].items())
    print(f"{row['faces']} {what}: {counts}; {row['without_result']} without a result")
    print(f"  mean error     {row['mean_mm']:.2f} mm (limit {LIMITS['mean_mm']})")
    print(f"  worst face     {row['worst_face_mm']:.2f} mm")
    print(f"  95 % of errors {row['p95_mm']:.2f} mm (limit {LIMITS['p95_mm']})")
    if bound := row.get("told_planes"):
        print(f"  the face model, told planes: {bound['mean_mm']:.2f} mm, 95 % {bound['p95_mm']:.2f}")
    print(f"  scan → result  {row['scan_to_surface_median_mm']:.2f} mm, median")
    print(f"  folded         {row['folded']:.4%} (limit {LIMITS['folded']:.1%}); worst face {row['worst_folded']:.3%}")
    print(f"                 {row['folded_against_truth']:.4%} against the truth")
    print(f"  time           {row['seconds_a_scan']:.1f} s a scan, search and landmarks included")
