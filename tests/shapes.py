"""Meshes with known geometry for the tests of this folder."""

import numpy as np

from meshgan.geometry.mesh import Mesh


def grid(columns: int, rows: int, jitter: float = 0.0, seed: int = 0) -> Mesh:
    """A planar grid of unit squares, each cut in two, facing +z; interior vertices are moved at random."""
    x, y = np.meshgrid(np.arange(columns + 1.0), np.arange(rows + 1.0))
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    inside = (x.ravel() % columns > 0) & (y.ravel() % rows > 0)
    shift = np.random.default_rng(seed).uniform(-jitter, jitter, (x.size, 2))
    vertices[inside, :2] += shift[inside]
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    right, up = corner + 1, corner + columns + 1
    triangles = np.concatenate([np.stack([corner, right, up + 1], 1), np.stack([corner, up + 1, up], 1)])
    return Mesh(vertices, triangles)


def icosahedron() -> Mesh:
    golden = (1 + np.sqrt(5)) / 2
    signs = np.array([(-1, 1), (1, 1), (-1, -1), (1, -1)], dtype=float)
    base = np.concatenate([np.stack([s[:, 0], golden * s[:, 1], 0 * s[:, 0]], 1) for s in [signs]])
    vertices = np.concatenate([np.roll(base, shift, axis=1) for shift in range(3)])
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    triples = np.array([(i, j, k) for i in range(12) for j in range(i) for k in range(j)])
    sides = np.linalg.norm(vertices[triples] - vertices[np.roll(triples, 1, axis=1)], axis=2)
    faces = triples[np.isclose(sides, sides.min()).all(axis=1)]
    normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    inward = (normals * vertices[faces[:, 0]]).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return Mesh(vertices, faces)


def icosphere(subdivisions: int, radius: float = 1.0) -> Mesh:
    """A sphere of `10 · 4^subdivisions + 2` vertices."""
    mesh = icosahedron()
    for _ in range(subdivisions):
        edges = mesh.edges
        middle = mesh.vertices[edges].sum(axis=1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        number = {tuple(edge): len(mesh.vertices) + k for k, edge in enumerate(edges.tolist())}
        faces = []
        for a, b, c in mesh.triangles.tolist():
            ab, bc, ca = (number[tuple(sorted(pair))] for pair in ((a, b), (b, c), (c, a)))
            faces += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        mesh = Mesh(np.concatenate([mesh.vertices, middle]), faces)
    return mesh.with_vertices(mesh.vertices * radius)


def bumpy(columns: int, rows: int, seed: int = 0) -> Mesh:
    """A jittered grid with hills: an open surface that is neither flat nor regular."""
    mesh = grid(columns, rows, jitter=0.25, seed=seed)
    x, y, _ = mesh.vertices.T
    hills = np.sin(6 * x / columns) * np.cos(5 * y / rows) * 0.12 * columns
    return mesh.with_vertices(np.stack([x, y, hills], axis=1))


def together(*meshes: Mesh) -> Mesh:
    """One mesh of several components."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
    )
