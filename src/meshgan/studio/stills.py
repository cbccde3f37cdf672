"""Pictures that the server draws, in the colour that faces have on the page."""

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Bytes
from meshgan.view.backing import with_backing
from meshgan.view.figures import SUPERSAMPLE, camera_for
from meshgan.view.raster import CLAY, Camera, render

COLOUR = np.array([218, 198, 183], np.float32) / 255  # sRGB; in the light of stills it looks as the page's clay does


def stills(faces: ArrayLike, triangles: ArrayLike, size: int, camera: Camera | None = None) -> Bytes:
    """Pictures (N, size, size, 3) of faces (N, V, 3), all seen by one camera; without one, it frames the faces."""
    clay = np.broadcast_to(COLOUR, np.shape(faces)[-2:])
    vertices, corners, colours = with_backing(faces, triangles, clay)
    return render(vertices, corners, size, SUPERSAMPLE, camera or camera_for(faces, "frontal"), CLAY, colours)
