"""meshgan: generative models of 3D faces on triangle meshes of one fixed connectivity."""

__version__ = "0.1.0"
