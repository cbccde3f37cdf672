"""The only training loop: one function in titled paragraphs. Progress is counted in faces seen."""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import principal_matrix
from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.directions import Axes
from meshgan.model.face_model import FaceModel, check_connectivity
from meshgan.model.pca import fit_coordinates
from meshgan.nn import kernel
from meshgan.nn.details import Details, Spectrum
from meshgan.nn.generator import noise_size
from meshgan.nn.networks import Decoder, Encoder, parameter_count
from meshgan.nn.validity import Validity
from meshgan.progress import counted
from meshgan.training.autoencoder import Components
from meshgan.training.began_encoder import BeganEncoder
from meshgan.training.began_judge import BeganJudge
from meshgan.training.checkpoint import Checkpoint, Identity, RunFolder, check_same_run, read_checkpoint
from meshgan.training.classification import Classification
from meshgan.training.finish import finish
from meshgan.training.objective import Objective
from meshgan.training.recipe import Adam, Momentum, Recipe, load_recipe, recipe_toml
from meshgan.training.state import Batch, Batches, State
from meshgan.training.team import Stopped, Team, stop_requests, team
from meshgan.training.watch import Watch, announce, diversity, live_line

FAR_MM = 1e5  # a hundred metres: no face lies or reaches so far
COMPARED = 64  # faces among which there must be two that differ
MEASURED = 1000  # faces whose details are measured
CHECKED = 300  # faces whose faults are looked for
PACE = {  # times as fast as other weights
    "offset": 20.0,  # each vertex's mean detail: it has to move tenths of a mm
    "gains": 10.0,  # beside traits: without them nobody has tried
    "loadings": 10.0,  # of each vertex, which the energies of all its region move
    "patterns": 10.0,
    "strength": 10.0,
}
RAMP = 0.05  # averaging looks back over at most this share of the faces seen so far

Callback = Callable[[Mapping[str, float]], object]
Sums = dict[str, Tensor]  # (2,) each statistic's sum since the last line of stats.jsonl, and of how many steps

WARM_UP = 3  # ordinary steps of each phase before it is captured: they allocate what the graph reuses

Step = Callable[[Batch], dict[str, Tensor]]


def train(
    recipe: Recipe | str | Path,
    faces: FaceSet,
    out: str | Path,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    tensorboard: bool = False,
    init: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train `recipe`, or the one of that name, on `faces` into the run folder `out`; returns the finished model's.

    With `resume`, a run that was stopped goes on from its last checkpoint and ends with the same bits as one that
    was not; one that is finished goes on if its schedule is longer now, or makes its model again if that is not whole.
    With `init`, generator and mapping begin as those of a trained model, whose template, hierarchy and normalisation
    are used; judges and critics begin anew. Each of `callbacks` is called with every line of statistics as it is
    logged, by the process that leads; what one raises ends the run.

    Raises `UsageError` for another recipe, data, seed or `init` than the run was started with, for a model that does
    not fit, and where another process trains in `out`, `Stopped` after Ctrl-C, SIGTERM or SIGHUP, and `MeshganError`
    when training fails (not a number, explosion, collapse, a full disk); the last good checkpoint stays.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if not isinstance(faces, FaceSet):
        raise UsageError("`faces` should be a FaceSet, such as `FaceSet.open` gives.")
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise UsageError("`callbacks` should be a list of functions, each of which takes a line of statistics.")
    if isinstance(recipe.objective, Components):
        return fit_components(recipe, faces, RunFolder(Path(out)), seed, resume, init)
    run, schedule = RunFolder(Path(out)), recipe.schedule
    with team(device) as crew, kernel.pytorch_in_one_thread(), ExitStack() as held:
        # Set up
        if crew.leads:
            run.check(resume)
        first = first_model(init, recipe, faces)
        faces = faces.normalised_as(first.normalisation) if first else faces
        check_faces_and_seed(faces, seed)
        begun = first.card.files["weights.safetensors"] if first else ""
        identity = Identity(recipe=recipe_toml(recipe), data=faces.fingerprint, seed=seed, init=begun)
        hierarchy = first.hierarchy if first else hierarchy_of(recipe, faces)
        targets = recipe.objective.targets(faces) if isinstance(recipe.objective, Classification) else None
        noise = noise_size(recipe.network, hierarchy.counts)
        batches = Batches(faces, recipe.network.code, schedule.batch, seed, crew, targets, noise)
        held.enter_context(run.ready(resume, crew.leads))  # what is wrong so far leaves nothing behind
        state = start(recipe, faces, hierarchy, seed, crew, first)
        step, sums = restore(run, identity, state)
        if crew.leads:
            run.write_recipe(recipe)
        watch = Watch(recipe, faces, run, state, seed, step, tensorboard)
        advance, last = stepper(recipe.objective, state), total_steps(recipe, batches.steps_per_epoch)
        log_every, sample_every, checkpoint_every = schedule.intervals(last)
        refuse_shorter(run, step * schedule.batch, last * schedule.batch)
        seen, finished = step * schedule.batch, step >= last
        if crew.leads and not finished:
            run.note_machine(crew.device)
            announce(crew.device)

        # Train
        with stop_requests(crew) as stop, live_line(last * schedule.batch, seen, crew.leads) as live:
            while step < last:
                epoch = step // batches.steps_per_epoch
                rate = set_learning_rate(state, recipe, epoch, step / last)
                stats = advance(batches(step, recipe.objective.phases))
                step, before, seen = step + 1, seen, seen + schedule.batch
                state.average(share_kept(recipe, seen))
                add(sums, stats)
                live.show(seen, stats)

                # Log and check
                trouble = None
                try:
                    if step % log_every == 0 or step == last:
                        line = watch.line(step, seen, epoch, rate, means(sums))
                        sums.clear()
                        for callback in callbacks if crew.leads else ():
                            callback(line)
                    if crossed(before, seen, sample_every):
                        watch.draw(seen)
                except DiskError as error:
                    trouble = error

                # Keep
                signal = stop(step)
                if crossed(before, seen, checkpoint_every) or step == last or signal or trouble:
                    watch.check_weights(seen)
                    if crew.leads:
                        run.save(Checkpoint(identity, step, {**state.tensors(), **summed(sums)}), seen)
                if trouble is not None:
                    raise trouble
                if signal and step < last:
                    raise Stopped(f"stopped after {seen:,} faces; `resume=True` goes on.", signal)

        # Finish
        if crew.leads and not (finished and run.has_model()):
            finish(run.path / "model", recipe, state, hierarchy, faces, seen, seed)
        crew.wait()
    return run.path / "model"


def outlook(
    recipe: Recipe, faces: FaceSet, out: str | Path, seed: int = 0, resume: bool = False, init: str | Path | None = None
) -> list[str]:
    """What `train` would do, in a few lines, after everything that it would check; nothing is written."""
    run = RunFolder(Path(out))
    run.check(resume)
    first = first_model(init, recipe, faces)
    check_faces_and_seed(faces, seed)
    lines = [f"{counted(len(faces.split.train), 'training face')} of {len(faces.template.vertices):,} vertices"]
    if isinstance(recipe.objective, Components):
        return lines
    if isinstance(recipe.objective, Classification):
        recipe.objective.targets(faces)
    batches = Batches(faces, recipe.network.code, recipe.schedule.batch, seed, Team())
    steps = total_steps(recipe, batches.steps_per_epoch)
    hierarchy = first.hierarchy if first else hierarchy_of(recipe, faces)
    networks = recipe.objective.build(hierarchy, recipe.network, torch.Generator().manual_seed(seed))
    every = dict(zip(("log", "sample", "checkpoint"), recipe.schedule.intervals(steps), strict=True))
    return [
        *lines,
        f"{steps * recipe.schedule.batch:,} faces seen, {steps:,} steps, {steps / batches.steps_per_epoch:,.1f} epochs",
        f"levels of {', '.join(f'{count:,}' for count in hierarchy.counts)} vertices: hierarchy.counts = "
        f"{list(hierarchy.counts[1:])}",
        f"a line every {every['log']:,} steps, a grid every {every['sample']:,} and a checkpoint every "
        f"{every['checkpoint']:,} faces seen",
        *(f"{name}: {count:,} weights" for name, network in networks.items() if (count := parameter_count(network))),
    ]


def check_faces_and_seed(faces: FaceSet, seed: int) -> None:
    """Raise `UsageError` for a seed that is none, and faces that nothing can be learned from."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"a seed is a whole number from 0 to 2^63 - 1, not {seed}.")
    normalisation = faces.normalisation
    if not np.isfinite(normalisation.mean).all() or not np.isfinite(normalisation.std).all():
        raise MeshganError(f"{faces.path} holds faces with NaN or infinite coordinates; make the FaceSet again.")
    far = max(float(np.abs(normalisation.mean).max()), float(normalisation.std.max()))
    if far > FAR_MM:
        raise UsageError(f"{faces.path} holds vertices {far:.1g} mm away; make the FaceSet again, in the right unit.")
    rows = some_rows(faces.split.train, COMPARED)
    if len(rows) < 2 or diversity(faces.vertices[rows]) == 0.0:
        raise UsageError(f"{faces.path} has no two training faces that differ; there is nothing to learn from it.")


def hierarchy_of(recipe: Recipe, faces: FaceSet) -> Hierarchy:
    """The levels of the template as a recipe wants them."""
    return Hierarchy.cached(faces.template, recipe.hierarchy.counts, recipe.hierarchy.laplacian)


def first_model(init: str | Path | None, recipe: Recipe, faces: FaceSet) -> FaceModel | None:
    """The model that a run begins with. Raises `UsageError` unless it is of the same template and networks."""
    if init is None:
        return None
    model = FaceModel.load(init)
    check_connectivity(faces.template, model.template, str(faces.path))
    known = model.card.network
    if known is not None and not known.traits:
        known = replace(known, traits=recipe.network.traits)  # which begin with no strength
    if known != recipe.network:
        values = [(key, getattr(model.card.network, key), getattr(recipe.network, key)) for key in vars(recipe.network)]
        wanted = [f"network.{key}={json.dumps(there)}" for key, there, here in values if there != here]
        raise UsageError(f"{init} has other networks than the recipe; set {', '.join(wanted)}.")
    return model


def fit_components(
    recipe: Recipe, faces: FaceSet, run: RunFolder, seed: int, resume: bool, init: str | Path | None
) -> Path:
    """Principal components in a run folder like any other's; they are computed at once, and a flow on them trained."""
    assert isinstance(recipe.objective, Components)
    if init is not None:
        raise UsageError("principal components are computed from nothing; leave out `init`.")
    run.check(resume)
    check_faces_and_seed(faces, seed)
    identity = Identity(recipe=recipe_toml(recipe), data=faces.fingerprint, seed=seed)
    with run.ready(resume):
        if (earlier := run.latest()) is not None:
            check_same_run(run.path, earlier.run, identity)
        if earlier is None or not run.has_model():
            began = time.monotonic()
            run.write_recipe(recipe)
            run.note_machine(torch.device("cpu"))
            kind, seen = recipe.objective.distribution, faces_to_see(recipe, len(faces.split.train))
            model = fit_coordinates(faces, kind, seen, recipe.network.code, seed, recipe.name, identity.recipe)
            run.keep_lines(0)
            looked = model.card.origin.faces_seen
            run.append_line({"step": 1, "faces": looked, "seconds": round(time.monotonic() - began, 2)})
            model.save(run.path / "model", replace=True)
            Axes.of(model).save(run.path / "model")
            run.save(Checkpoint(identity, 1, {}), looked)
    return run.path / "model"


def faces_to_see(recipe: Recipe, count: int) -> int:
    """How many of `count` training faces the schedule asks for, each as often as it is seen."""
    schedule = recipe.schedule
    return schedule.faces or max(1, round((schedule.epochs or 1) * count))


def refuse_shorter(run: RunFolder, seen: int, asked: int) -> None:
    """Raise `UsageError` where a run has seen more faces than are asked for."""
    if seen > asked:
        raise UsageError(
            f"{run.path} has seen {seen:,} faces, more than the {asked:,} that are asked for; a run may be made "
            "longer, and not shorter."
        )


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """The number of steps that the schedule asks for."""
    schedule = recipe.schedule
    if schedule.epochs is not None:
        return max(1, round(schedule.epochs * steps_per_epoch))
    assert schedule.faces is not None
    return math.ceil(schedule.faces / schedule.batch)


def start(
    recipe: Recipe, faces: FaceSet, hierarchy: Hierarchy, seed: int, crew: Team, first: FaceModel | None = None
) -> State:
    """The state before the first step: random weights from `seed`, or those of the `first` model where it has any.

    With a linear map, generator and encoder are the principal components alone to begin with: what their convolutions
    end in is zero.
    """
    networks = recipe.objective.build(hierarchy, recipe.network, torch.Generator().manual_seed(seed))
    detail = recipe.network.detail
    if first is not None:
        for name, network in networks.items():
            first.give(name, network)
    elif recipe.network.linear:
        matrix = torch.from_numpy(principal_matrix(faces, recipe.network.code, recipe.objective.prior, in_mm=detail))
        for network in networks.values():
            if isinstance(network, Encoder | Decoder) and network.linear is not None:
                network.set_linear(matrix)
                nn.init.zeros_(network.last.weight if isinstance(network, Decoder) else network.dense.weight)
    if detail:
        networks["details"] = measured_details(networks["generator"], recipe.objective, faces)
        if first is not None:
            first.give("generator", networks["generator"])  # whose details are of the size that they were
    if isinstance(recipe.objective, BeganEncoder):
        networks["spectrum"] = Spectrum.of(faces.template, normalised(faces), faces.normalisation.std)
    for network in networks.values():
        network.to(crew.device)
        crew.broadcast_(list(network.parameters()))
    kept = [name for name in recipe.objective.keeps if recipe.averaging.half_life]
    return State(
        networks=networks,
        optimisers={
            name: optimiser(recipe.optimiser, network, crew)
            for name, network in networks.items()
            if any(True for _ in network.parameters())
        },
        variables={name: value.to(crew.device) for name, value in recipe.objective.variables(networks).items()},
        averages={name: copy.deepcopy(networks[name]).requires_grad_(False) for name in kept},
        clip=recipe.optimiser.clip,
        team=crew,
    )


def normalised(faces: FaceSet) -> Tensor:
    """Some training faces (N, V, 3) in network units, of which energies and details are measured."""
    return torch.from_numpy(faces.normalisation.apply(faces.vertices[some_rows(faces.split.train, MEASURED)]))


@torch.no_grad()
def measured_details(generator: nn.Module, objective: Objective, faces: FaceSet) -> Details:
    """Real details, what the generator's linear map leaves of training faces, and faults; the generator learns how
    large details are."""
    assert isinstance(generator, Decoder)
    assert generator.linear is not None
    normalisation = faces.normalisation
    generator.metric.copy_(torch.from_numpy(normalisation.std).square())
    real = torch.cat([generator.beyond(block) for block in normalised(faces).split(64)])
    details = Details(faces.template, real, normalisation.std, generator.spec.traits)
    generator.deviations.copy_(details.deviations)
    if isinstance(objective, BeganJudge) and objective.validity:
        seen = np.asarray(faces.vertices[some_rows(faces.split.train, CHECKED)])
        normal = torch.from_numpy(normalisation.apply(seen))
        smooth = normalisation.undo((generator.project(normal) @ generator.linear).view_as(normal).numpy())
        details.validity = Validity(faces.template, normalisation.mean, normalisation.std, seen, smooth)
    return details


def optimiser(spec: Adam | Momentum, network: nn.Module, crew: Team) -> torch.optim.Optimizer:
    """The optimiser of one network; on a GPU its learning rate is a tensor, so that a captured graph follows it."""
    on_gpu = crew.device.type == "cuda"
    groups: dict[float, dict[str, Any]] = {}
    parts = {name.split(".")[0] for name, _ in network.named_parameters()}
    quick = PACE if "patterns" in parts else {**PACE, "gains": 1.0}
    for name, parameter in network.named_parameters():
        pace = quick.get(name.split(".")[0], 1.0)
        groups.setdefault(pace, {"params": [], "pace": pace})["params"].append(parameter)
    for group in groups.values():
        group["lr"] = torch.tensor(spec.lr, device=crew.device) if on_gpu else spec.lr
    if isinstance(spec, Momentum):
        return torch.optim.SGD(list(groups.values()), spec.lr, spec.momentum, fused=True)
    betas = (spec.beta1, spec.beta2)
    return torch.optim.Adam(list(groups.values()), spec.lr, betas, fused=True, capturable=on_gpu)


def restore(run: RunFolder, identity: Identity, state: State) -> tuple[int, Sums]:
    """Load the newest whole checkpoint into `state`; returns its step and sums, 0 and none if there is none."""
    path = state.team.share(run.newest() if state.team.leads else None)
    if path is None:
        return 0, {}
    checkpoint = read_checkpoint(path)
    check_same_run(run.path, checkpoint.run, identity)
    try:
        state.load(checkpoint.tensors)
    except (KeyError, RuntimeError) as error:
        raise MeshganError(f"{path} does not fit its recipe; remove it to go on from the one before.") from error
    tensors = checkpoint.tensors
    sums = {name.removeprefix("sum/"): tensors[name] for name in tensors if name.startswith("sum/")}
    if any(value.shape != (2,) or not value[1] > 0 for value in sums.values()):
        raise MeshganError(f"{path} does not fit its recipe; remove it to go on from the one before.")
    return checkpoint.step, {name: value.to(state.team.device) for name, value in sums.items()}


def set_learning_rate(state: State, recipe: Recipe, epoch: int, share: float) -> float:
    """Set and return the learning rate of an epoch, after a `share` of the run; the generator's may be a multiple."""
    rate = recipe.optimiser.lr * recipe.optimiser.decay**epoch * recipe.optimiser.final**share
    for name, one in state.optimisers.items():
        own = rate * recipe.optimiser.generator_factor if name == "generator" else rate
        for group in one.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own * group["pace"])
            else:
                group["lr"] = own * group["pace"]
    return rate


def share_kept(recipe: Recipe, seen: int) -> float:
    """How much of the averaged weights stays in one step; early on the average looks back less far."""
    half_life = min(recipe.averaging.half_life, RAMP * seen)
    return 0.5 ** (recipe.schedule.batch / max(half_life, 1e-8))


def add(sums: Sums, stats: Mapping[str, Tensor]) -> None:
    """Add a step's statistics to the sums; a step need not have all of them."""
    for name, value in stats.items():
        one = torch.stack([value, torch.ones_like(value)])
        sums[name] = sums[name] + one if name in sums else one


def means(sums: Sums) -> dict[str, float]:
    """The mean of each statistic since the last line."""
    return {name: (value[0] / value[1]).item() for name, value in sums.items()}


def summed(sums: Sums) -> Sums:
    """The sums as a checkpoint names them."""
    return {f"sum/{name}": value for name, value in sums.items()}


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every != after // every


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
