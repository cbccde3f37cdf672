"""The types of arrays, named once: what they hold, their shapes stand in the docstrings that use them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Reals = NDArray[np.floating]  # of either precision
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Bytes = NDArray[np.uint8]  # colours and whole images

Faces = Singles  # (N, V, 3) in mm
Codes = Singles  # (N, D)
