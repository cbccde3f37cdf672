"""meshgan: generative models of 3D faces on triangle meshes of one fixed connectivity."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshgan.data.faceset import FaceSet
    from meshgan.evaluation.evaluate import evaluate
    from meshgan.geometry.files import read_mesh, write_mesh
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.geometry.mesh import Mesh
    from meshgan.model.compose import compose
    from meshgan.model.face_model import FaceModel
    from meshgan.model.latent import interpolate
    from meshgan.model.load import load_model
    from meshgan.model.rig import rig
    from meshgan.registration.anthropometry import measure
    from meshgan.training.loop import train
    from meshgan.training.recipe import load_recipe

__version__ = "0.1.0"

_HOMES = {
    "FaceModel": "model.face_model",
    "FaceSet": "data.faceset",
    "Hierarchy": "geometry.hierarchy",
    "Mesh": "geometry.mesh",
    "compose": "model.compose",
    "evaluate": "evaluation.evaluate",
    "interpolate": "model.latent",
    "load_model": "model.load",
    "load_recipe": "training.recipe",
    "measure": "registration.anthropometry",
    "read_mesh": "geometry.files",
    "rig": "model.rig",
    "train": "training.loop",
    "write_mesh": "geometry.files",
}

__all__ = [
    "FaceModel",
    "FaceSet",
    "Hierarchy",
    "Mesh",
    "__version__",
    "compose",
    "evaluate",
    "interpolate",
    "load_model",
    "load_recipe",
    "measure",
    "read_mesh",
    "rig",
    "train",
    "write_mesh",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that `import meshgan` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshgan' has no attribute '{name}'")
    return getattr(import_module(f"meshgan.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
