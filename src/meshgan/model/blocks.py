"""Networks of a model: filled with its weights, and applied to arrays in blocks."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.errors import MeshganError
from meshgan.nn import kernel

BLOCK = 32  # rows at a time; always the same, so that the bits do not depend on the count

Network = TypeVar("Network", bound=nn.Module)


def filled(network: Network, name: str, tensors: Mapping[str, Tensor]) -> Network:
    """Put the weights `name/…` into a network, checking names and shapes."""
    mine = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    wanted = network.state_dict()
    fits = mine.keys() == wanted.keys() and all(mine[key].shape == wanted[key].shape for key in mine)
    if not fits or not all(torch.isfinite(value).all() for value in mine.values()):
        raise MeshganError("weights.safetensors does not fit model.json; get the model again.")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(mine[key])
    return network.requires_grad_(False)


def in_blocks(network: nn.Module, values: Any) -> Any:
    """Apply a network to an array in blocks of one size (the last is padded), so that the bits never vary."""
    padding = -len(values) % BLOCK
    padded = torch.from_numpy(np.concatenate([values, np.zeros((padding, *values.shape[1:]), np.float32)]))
    with kernel.pytorch_in_one_thread(), torch.inference_mode():
        parts = [network(part) for part in padded.split(BLOCK)]
    return torch.cat(parts)[: len(values)].numpy() if parts else network(padded).numpy()
