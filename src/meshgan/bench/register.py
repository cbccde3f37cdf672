"""How well and how fast scans are brought into correspondence, on faces whose correspondence is known.

Fake scans of corpus faces (other triangles, noise, holes, a border cut off, turned at random) go through the whole
of `meshgan register`, landmarks detected, not given. Then, on some of them, from the same landmarks and the same
start, the model fit with non-rigid ICP is set beside `trimesh.registration.nricp_amberg` with its own settings.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.bench.fake_scans import corpus_people, fake_scan
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.progress import track
from meshgan.registration.models import default_template
from meshgan.registration.nricp import nonrigid_icp
from meshgan.registration.prior import fit
from meshgan.registration.quality import measure
from meshgan.registration.register import Sighting, register, sight
from meshgan.registration.surface import Surface
from meshgan.registration.template import FaceTemplate
from meshgan.registration.unfold import folded, unfolded

FACES, COMPARED = 50, 3
LIMITS = {"mean_mm": 1.0, "p95_mm": 2.5, "folded": 0.001, "times_faster": 5.0}

Floats = NDArray[np.float64]


def run(faces: int = FACES, compared: int = COMPARED) -> dict[str, Any]:
    """Errors against the truth over `faces` fake scans, and times and errors beside trimesh's over `compared`."""
    template = default_template()
    people = corpus_people(faces, "bench")
    scans = [fake_scan(template.mesh.with_vertices(face), np.random.default_rng(k)) for k, face in enumerate(people)]
    truths = [scan.pose(face.astype(np.float64)) for scan, face in zip(scans, people, strict=True)]
    warm_up = register(scans[0].mesh, template)  # compiles
    assert len(warm_up.vertices) == len(people[0])
    results = [
        _whole(scan.mesh, truth, template)
        for scan, truth in track(list(zip(scans, truths, strict=True)), "registering")
    ]
    found = [result for result in results if result is not None]
    pairs = [_beside_trimesh(scans[k].mesh, truths[k], template) for k in track(range(compared), "comparing")]
    summary = {
        "faces": faces,
        "failed": faces - len(found),
        "mean_mm": float(np.mean([result["error_mm"] for result in found])),
        "p95_mm": float(np.percentile(np.concatenate([result["errors_mm"] for result in found]), 95)),
        "worst_face_mm": float(max(result["error_mm"] for result in found)),
        "scan_to_surface_median_mm": float(np.median([result["median_mm"] for result in found])),
        "folded": float(np.mean([result["folded"] for result in found])),
        "seconds_a_scan": float(np.median([result["seconds"] for result in found])),
        "beside_trimesh": {name: _mean([pair[name] for pair in pairs]) for name in pairs[0]} if pairs else {},
        "limits": LIMITS,
    }
    _show(summary)
    return summary


def _whole(mesh: Mesh, truth: Floats, template: FaceTemplate) -> dict[str, Any] | None:
    """One scan through everything; None if no face was found."""
    start = time.perf_counter()
    try:
        result = register(mesh, template)
    except MeshganError:
        return None
    seconds = time.perf_counter() - start
    quality = measure(result, template)
    errors = np.linalg.norm(result.to_scan(result.vertices) - truth, axis=1)
    figures = {"error_mm": errors.mean(), "errors_mm": errors, "median_mm": quality.median_mm}
    return figures | {"folded": quality.folded, "seconds": seconds}


def _beside_trimesh(mesh: Mesh, truth: Floats, template: FaceTemplate) -> dict[str, dict[str, float]]:
    """Both methods from one sighting on one scan, and trimesh's in its two ways of finding closest points."""
    sighting, scan, to_scan = sight(mesh, template)
    goal = to_scan.inverse(truth)
    methods: dict[str, Callable[[], Floats]] = {
        "meshgan": partial(_ours, scan, sighting, template),
        "trimesh, faces": partial(_theirs, scan, sighting, template, True),
        "trimesh, vertices": partial(_theirs, scan, sighting, template, False),
    }
    return {name: _timed(method, goal, Surface(scan), template) for name, method in methods.items()}


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
    pull = partial(template.pull, surface=Surface(scan))
    fitted = fit(template.prior, sighting.anchors, sighting.pose, pull)
    *_, last = nonrigid_icp(fitted.vertices, pull, template.nodes, template.mesh.edges, sighting.anchors)
    return unfolded(template.mesh.with_vertices(last.vertices), fitted.vertices)


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


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _show(summary: dict[str, Any]) -> None:
    print(f"{summary['faces']} fake scans, {summary['failed']} without a result:")
    print(f"  mean error     {summary['mean_mm']:.2f} mm (limit {LIMITS['mean_mm']})")
    print(f"  worst face     {summary['worst_face_mm']:.2f} mm")
    print(f"  95 % of errors {summary['p95_mm']:.2f} mm (limit {LIMITS['p95_mm']})")
    print(f"  scan → result  {summary['scan_to_surface_median_mm']:.2f} mm, median")
    print(f"  folded         {summary['folded']:.4%} (limit {LIMITS['folded']:.1%})")
    print(f"  time           {summary['seconds_a_scan']:.1f} s a scan, search and landmarks included")
    print("same landmarks, start and scan:   seconds   error mm   surface mm   folded")
    for name, row in summary["beside_trimesh"].items():
        figures = f"{row['seconds']:9.2f} {row['error_mm']:10.2f} {row['surface_mm']:12.3f} {row['folded']:8.3%}"
        print(f"  {name:30s}{figures}")
