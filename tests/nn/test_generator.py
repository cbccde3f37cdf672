"""The generator in arrays is the generator in PyTorch, and does not import it."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import hierarchy

from meshgan.errors import MeshganError
from meshgan.model.load import load_model
from meshgan.nn import kernel, paths
from meshgan.nn.generator import CodeMapping, Generator, _operators
from meshgan.nn.networks import Decoder, MappingNetwork, on_arrays
from meshgan.nn.plan import NetworkSpec, ordered_levels

needs_kernel = pytest.mark.skipif(kernel.library() is None, reason="the kernel has not been built")
HIERARCHY = hierarchy()
SPEC = NetworkSpec(code=5, widths=(3, 4, 17, 6), terms=3)
SPECS = st.builds(
    lambda widths, traits, detail, **sizes: NetworkSpec(
        widths=tuple(widths), traits=traits if detail else 0, detail=detail, **sizes
    ),
    widths=st.lists(st.integers(1, 20), min_size=4, max_size=4),
    code=st.integers(1, 9),
    terms=st.integers(1, 7),
    linear=st.just(True),
    detail=st.booleans(),
    traits=st.integers(0, 3),
) | st.builds(NetworkSpec, code=st.integers(1, 9), terms=st.integers(1, 3))


def weights_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def random(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The network with numbers from N(0, ¼) for all of its weights and buffers, but for deviations."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) / 2)
    if isinstance(network, Decoder) and network.spec.detail:
        network.metric.abs_()
    return network.requires_grad_(False)


@needs_kernel
@settings(max_examples=30, deadline=None)
@given(spec=SPECS, count=st.integers(0, 5), chance=st.booleans(), seed=st.integers(0, 9))
def test_both_generators_are_one(spec: NetworkSpec, count: int, chance: bool, seed: int) -> None:
    decoder = random(Decoder(HIERARCHY, spec), seed)
    generator = Generator(HIERARCHY, spec, weights_of(decoder))
    assert generator.noise_size == decoder.noise_size
    rng = np.random.default_rng(seed)
    given_ = [rng.normal(size=(count, spec.code)).astype(np.float32)]
    if chance and spec.detail:
        given_.append(rng.normal(size=(count, decoder.noise_size)).astype(np.float32))
    found, expected = generator(*given_), on_arrays(decoder)(*given_)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    largest = max(1.0, np.abs(expected).max(initial=0), 3.0**spec.terms)
    np.testing.assert_allclose(found, expected, atol=1e-5 * largest)


@settings(max_examples=10, deadline=None)
@given(code=st.integers(1, 9), mapping=st.integers(1, 20), count=st.integers(0, 5), seed=st.integers(0, 9))
def test_both_mappings_are_one(code: int, mapping: int, count: int, seed: int) -> None:
    spec = NetworkSpec(code=code, mapping=mapping)
    network = random(MappingNetwork(spec), seed)
    codes = np.random.default_rng(seed).uniform(-1, 1, (count, code)).astype(np.float32)
    found = CodeMapping(spec, weights_of(network))(codes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, network(torch.from_numpy(codes)), rtol=1e-4, atol=1e-4)


@needs_kernel
def test_a_copy_works_alone() -> None:
    generator = Generator(HIERARCHY, SPEC, weights_of(Decoder(HIERARCHY, SPEC)))
    code = np.ones((2, SPEC.code), np.float32)
    expected = generator(code)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(generator))(code), expected)


def test_weights_of_another_network_are_refused() -> None:
    weights = weights_of(Decoder(HIERARCHY, SPEC))
    for other in (replace(SPEC, code=6), replace(SPEC, terms=4), replace(SPEC, linear=True)):
        with pytest.raises(MeshganError, match="does not fit"):
            Generator(HIERARCHY, other, weights)
    mapped = NetworkSpec(code=5, mapping=3)
    with pytest.raises(MeshganError, match="does not fit"):
        CodeMapping(replace(mapped, mapping=4), weights_of(MappingNetwork(mapped)))


@pytest.mark.parametrize("which", ["laplacian", "up"])
def test_matrices_that_lead_out_of_a_field_are_refused(which: str) -> None:
    """The library believes what it is told."""
    level = ordered_levels(HIERARCHY, SPEC)[1]
    matrix = getattr(level, which)
    outside = matrix.copy()
    outside.indices[-1] = matrix.shape[1]
    other = sp.csr_array(
        (matrix.data, matrix.indices, matrix.indptr[:-1]), shape=(matrix.shape[0] - 1, matrix.shape[1])
    )
    for damaged in (outside, other):
        with pytest.raises(ValueError):
            _operators(replace(level, **{which: damaged}))


@needs_kernel
def test_what_the_library_cannot_do_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(Decoder(HIERARCHY, SPEC))
    assert Generator.where_it_can(HIERARCHY, SPEC, weights) is not None
    assert Generator.where_it_can(HIERARCHY, replace(SPEC, skips=True), {}) is None
    monkeypatch.setattr(kernel, "library", lambda: None)
    assert Generator.where_it_can(HIERARCHY, SPEC, weights) is None


@needs_kernel
def test_models_that_ship_draw_faces_without_pytorch_and_the_same_ones_with_it(tmp_path: Path) -> None:
    command = (
        "import sys; import numpy as np; from meshgan.model.load import load_model\n"
        "model = load_model('expression'); np.save(sys.argv[1], model.sample(3, seed=2)); print('torch' in sys.modules)"
    )
    place, model = tmp_path / "faces.npy", load_model("expression")
    said = subprocess.run([sys.executable, "-c", command, place], capture_output=True, text=True, check=True)
    found = np.load(place)
    assert said.stdout.strip() == "False"
    np.testing.assert_array_equal(found, model.sample(3, seed=2))
    with paths.forced("rows"):
        np.testing.assert_allclose(found, model.sample(3, seed=2), atol=1e-4)  # mm


LINUX = "processor\t: 0\nmodel name\t: x\nflags\t\t: fpu sse2 {}\nbugs\t\t:\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "default"),
        ("avx2 fma", "default"),
        ("avx2 fma bmi2", "avx2"),
        ("avx2 fma bmi2 avx512f", "avx2"),
        ("avx512f avx512dq avx512cd avx512bw avx512vl avx2 bmi2 fma", "avx512"),
    ],
)
def test_a_processor_is_what_its_system_says(
    flags: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(LINUX.format(flags))
    monkeypatch.setattr(kernel, "CPUS", tmp_path / "cpuinfo")
    assert kernel.capability.__wrapped__() == expected
    monkeypatch.setattr(kernel, "CPUS", tmp_path / "none")
    assert kernel.capability.__wrapped__() == torch.backends.cpu.get_cpu_capability().lower()


@pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="PyTorch has been told another processor")
def test_this_processor_is_what_pytorch_takes_it_for() -> None:
    assert kernel.capability() == torch.backends.cpu.get_cpu_capability().lower()
