"""A training step as one captured CUDA graph, so that a GPU does not wait for hundreds of small launches."""

from collections.abc import Callable

import torch
from torch import Tensor

from meshgan.training.state import Batch, Objective, State

WARM_UP = 3  # ordinary steps of each phase before it is captured: they allocate what the graph reuses

Step = Callable[[Batch], dict[str, Tensor]]


def stepper(objective: Objective, state: State) -> Step:
    """`objective.step` on `state`: as it is on a CPU and between several processes, captured on one GPU."""
    if state.team.device.type == "cuda" and state.team.size == 1:
        return _Captured(objective, state)
    return lambda batch: objective.step(state, batch)


class _Captured:
    """Runs the first steps of each phase as they are (they count), then captures one graph for each phase."""

    def __init__(self, objective: Objective, state: State) -> None:
        self.objective, self.state = objective, state
        self.seen: dict[int, int] = {}
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.seen[batch.phase] = self.seen.get(batch.phase, 0) + 1
        if self.seen[batch.phase] <= WARM_UP:
            return self._on_side_stream(batch)
        if batch.phase not in self.graphs:
            self.graphs[batch.phase] = self._capture(batch)
        graph, inputs, stats = self.graphs[batch.phase]
        inputs.faces.copy_(batch.faces)
        inputs.codes.copy_(batch.codes)
        inputs.mix.copy_(batch.mix)
        for own, new in ((inputs.noise, batch.noise), (inputs.targets, batch.targets)):
            if own is not None and new is not None:
                own.copy_(new)
        graph.replay()
        return {name: value.clone() for name, value in stats.items()}

    def _on_side_stream(self, batch: Batch) -> dict[str, Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            stats = self.objective.step(self.state, batch)
        torch.cuda.current_stream().wait_stream(stream)
        return stats

    def _capture(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]:
        noise, targets = (None if values is None else values.clone() for values in (batch.noise, batch.targets))
        inputs = Batch(batch.faces.clone(), batch.codes.clone(), batch.mix.clone(), batch.phase, noise, targets)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            stats = self.objective.step(self.state, inputs)
        return graph, inputs, stats
