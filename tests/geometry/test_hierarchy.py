import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry import hierarchy as hierarchy_module
from meshgan.geometry.decimate import decimate
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from shapes import bumpy, grid, icosphere, together

MESH = together(bumpy(22, 22), icosphere(1))


@pytest.fixture(scope="module")
def built() -> Hierarchy:
    return Hierarchy.build(MESH)


def same(a: Hierarchy, b: Hierarchy) -> bool:
    if a.kind != b.kind or a.counts != b.counts:
        return False
    return all(
        np.array_equal(one.mesh.vertices, two.mesh.vertices)
        and np.array_equal(one.mesh.triangles, two.mesh.triangles)
        and (one.laplacian != two.laplacian).nnz == 0
        and (one.kept is two.kept is None or np.array_equal(one.kept, two.kept))
        and (one.up is two.up is None or (one.up != two.up).nnz == 0)
        for one, two in zip(a.levels, b.levels, strict=True)
    )


def test_by_default_four_levels_have_a_quarter_of_the_vertices_each(built: Hierarchy) -> None:
    sizes = [len(MESH.vertices)]
    for _ in range(4):
        sizes.append(round(sizes[-1] / 4))
    assert built.counts[:4] == tuple(sizes[:4])
    assert built.counts[4] == max(sizes[4], 4 + 3)  # the sphere cannot have fewer than four, the sheet three


def test_the_levels_fit_together(built: Hierarchy) -> None:
    for level, coarser in pairwise(built.levels):
        np.testing.assert_array_equal(level.mesh.vertices[level.kept], coarser.mesh.vertices)
        assert level.up.shape == (len(level.mesh.vertices), len(coarser.mesh.vertices))
        np.testing.assert_allclose(level.up.sum(axis=1), 1, atol=1e-15)
        assert (level.up.data > 0).all()
        np.testing.assert_array_equal(level.up[level.kept].toarray(), np.eye(len(level.kept)))
    assert built.levels[-1].kept is None
    assert built.levels[-1].up is None


@pytest.mark.parametrize("kind", ["cotangent", "combinatorial"])
def test_the_spectrum_of_every_level_lies_between_minus_one_and_one(kind) -> None:
    hierarchy = Hierarchy.build(bumpy(14, 14), kind=kind)
    for level in hierarchy.levels:
        eigenvalues = np.linalg.eigvals(level.laplacian.toarray()).real
        assert eigenvalues.min() == pytest.approx(-1, abs=1e-9)
        assert eigenvalues.max() <= 1 + 1e-9
        if kind == "cotangent":
            assert eigenvalues.max() == pytest.approx(1, abs=1e-9)


def test_the_papers_counts() -> None:
    mesh = decimate(bumpy(75, 75), 5036).mesh
    hierarchy = Hierarchy.build(mesh)
    assert hierarchy.counts == (5036, 1259, 315, 79, 20)
    assert same(hierarchy, Hierarchy.build(mesh, [1259, 315, 79, 20]))


def test_vertices_at_the_same_place_keep_their_own_values() -> None:
    """Two sheets that touch, like closed lips: each vertex is restored from its own sheet."""
    sheet = bumpy(12, 12)
    hierarchy = Hierarchy.build(together(sheet, sheet), [60])
    kept, up = hierarchy.levels[0].kept, hierarchy.levels[0].up
    np.testing.assert_array_equal(up[kept].toarray(), np.eye(60))


def test_given_counts_are_exact_or_refused() -> None:
    mesh = bumpy(9, 9)
    assert Hierarchy.build(mesh, [40, 11]).counts == (100, 40, 11)
    assert Hierarchy.build(mesh, []).counts == (100,)
    for counts in ([2], [40, 41], [0]):
        with pytest.raises(MeshganError, match="cannot be reduced"):
            Hierarchy.build(mesh, counts)
    with pytest.raises(UsageError, match="cotangent, combinatorial"):
        Hierarchy.build(mesh, kind="umbrella")


def test_a_part_learns_from_itself_alone() -> None:
    inner = icosphere(3)
    outer = Mesh(inner.vertices * 1.001, inner.triangles)  # as lids lie on an eye
    built = Hierarchy.build(together(inner, outer))
    part = built.levels[0].mesh.components
    for level in built.levels[:-1]:
        coarse = part[level.kept]
        assert set(coarse) == {0, 1}
        up = level.up.tocoo()
        np.testing.assert_array_equal(part[up.row], coarse[up.col])
        np.testing.assert_allclose(level.up.sum(axis=1), 1.0)
        part = coarse


def test_a_template_of_many_small_parts_stops_at_its_floor() -> None:
    parts = together(*[grid(2, 2).with_vertices(grid(2, 2).vertices + np.array([5 * k, 0, 0])) for k in range(6)])
    assert Hierarchy.build(parts).counts == (54, 18, 18, 18, 18)


def test_lone_vertices_are_legal() -> None:
    mesh = bumpy(9, 9)
    hierarchy = Hierarchy.build(Mesh(np.concatenate([mesh.vertices, [[4, 4, 50]]]), mesh.triangles))
    np.testing.assert_allclose(hierarchy.levels[0].up.sum(axis=1), 1)


def test_a_mesh_without_surface_is_refused() -> None:
    with pytest.raises(MeshganError, match="no triangle with an area"):
        Hierarchy.build(Mesh(np.zeros((40, 3)), []))


def test_saving_and_loading_changes_nothing(built: Hierarchy, tmp_path: Path) -> None:
    built.save(tmp_path / "a.npz")
    Hierarchy.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert same(built, Hierarchy.load(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_float64_and_float32_vertices_give_the_same_hierarchy() -> None:
    mesh = bumpy(9, 9)
    rounded = mesh.with_vertices(mesh.vertices.astype(np.float32))
    assert not np.array_equal(mesh.vertices, rounded.vertices)
    assert same(Hierarchy.build(mesh), Hierarchy.build(rounded))


def test_a_missing_cut_or_foreign_file_is_one_clear_error(built: Hierarchy, tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    built.save(whole)
    data = whole.read_bytes()
    broken = tmp_path / "broken.npz"
    for content in (data[: len(data) // 2], b"", b"\0" * 500, data[:4000] + b"x" * 64 + data[4064:]):
        broken.write_bytes(content)
        with pytest.raises(MeshganError, match=r"broken\.npz is missing, damaged"):
            Hierarchy.load(broken)
    with pytest.raises(MeshganError, match="missing"):
        Hierarchy.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("format", lambda a: a + 1),
        ("kind", lambda a: np.array("umbrella")),
        ("0.kept", lambda a: a[::-1].copy()),
        ("0.kept", lambda a: a + 100_000),
        ("0.kept", lambda a: a[:-1]),
        ("0.kept", lambda a: a - 1),
        ("0.triangles", lambda a: a + 1),
        ("1.vertices", lambda a: a + 1),
        ("0.vertices", lambda a: a * np.nan),
        ("0.laplacian.data", lambda a: a * np.inf),
        ("0.laplacian.data", lambda a: a[:-1]),
        ("0.laplacian.data", lambda a: a.astype(object)),
        ("0.laplacian.indices", lambda a: a + 1),
        ("0.laplacian.indptr", lambda a: a[:-1]),
        ("0.laplacian.indptr", lambda a: a[::-1].copy()),
        ("0.up.data", lambda a: 2 * a),
        ("0.up.data", lambda a: -a),
        ("0.up.indices", lambda a: a - 1),
        ("4.laplacian.data", None),
        ("2.up.data", None),
    ],
)
def test_a_hand_edited_file_is_refused(built: Hierarchy, tmp_path: Path, name: str, change) -> None:
    path = tmp_path / "edited.npz"
    built.save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    original = arrays.pop(name)
    if change:
        arrays[name] = change(original)
    np.savez(path, **arrays)
    with pytest.raises(MeshganError, match=r"edited\.npz"):
        Hierarchy.load(path)


def test_an_enormous_file_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hierarchy_module, "LARGEST_FILE", 1000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the file was unpacked"))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("format.npy", b"\0" * 2000)
    with pytest.raises(MeshganError, match=r"bomb\.npz"):
        Hierarchy.load(tmp_path / "bomb.npz")


def test_the_cache_is_keyed_by_content_and_arguments(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mesh = bumpy(9, 9)
    first = Hierarchy.cached(mesh)
    assert same(first, Hierarchy.build(mesh))
    with monkeypatch.context() as patched:
        patched.setattr(hierarchy_module, "decimate", lambda *_, **__: pytest.fail("built again"))
        assert same(first, Hierarchy.cached(mesh))
    Hierarchy.cached(mesh, [40])
    Hierarchy.cached(mesh, kind="combinatorial")
    moved = Hierarchy.cached(mesh.with_vertices(mesh.vertices * 1.01))
    assert not np.array_equal(moved.levels[0].mesh.vertices, first.levels[0].mesh.vertices)
    assert len(list((tmp_path / "meshgan").iterdir())) == 4


def test_a_damaged_cache_entry_is_built_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mesh = bumpy(9, 9)
    first = Hierarchy.cached(mesh)
    (entry,) = (tmp_path / "meshgan").iterdir()
    entry.write_bytes(b"nonsense")
    assert same(first, Hierarchy.cached(mesh))
    assert same(first, Hierarchy.load(entry))


def test_without_a_place_for_the_cache_it_still_builds(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Hierarchy.cached(bumpy(9, 9)).counts[:3] == (100, 25, 6)


@pytest.mark.parametrize(
    ("name", "counts"),
    [(name, (5036, 1259, 315, 79, 20)) for name in ("identity", "expression")]
    + [("head", (11167, 2792, 698, 174, 44))],
)
def test_the_hierarchies_of_the_shipped_models_are_read(name: str, counts: tuple[int, ...]) -> None:
    """Files of a format that is not read any more would be no hierarchy."""
    found = Hierarchy.load(Path(hierarchy_module.__file__).parents[1] / "model" / "shipped" / name / "hierarchy.npz")
    assert found.counts == counts
    assert found.kind == "cotangent"
