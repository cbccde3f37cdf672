"""Principal components of training faces: where a generator's linear path starts."""

import numpy as np
from numpy.typing import NDArray

from meshgan.data.faceset import FaceSet, some_rows

MOST = 2000  # faces that the components are estimated from


def principal_matrix(faces: FaceSet, count: int) -> NDArray[np.float32]:
    """`count` principal axes (count, V, 3) of the training part in network units, times their deviations.

    With codes drawn from U(-1, 1), whose variance is 1/3, `code @ matrix` has the covariance of the faces. Axes
    beyond the number of faces are zero.
    """
    rows = some_rows(faces.split.train, MOST)
    values = faces.normalisation.apply(faces.vertices[rows]).reshape(len(rows), -1)
    variances, left = np.linalg.eigh(values @ values.T / len(rows))
    strongest = np.argsort(variances)[::-1][: min(count, len(rows) - 1)]
    matrix = np.zeros((count, values.shape[1]), dtype=np.float32)
    matrix[: len(strongest)] = np.sqrt(3.0 / len(rows)) * left[:, strongest].T @ values
    return matrix.reshape(count, *faces.vertices.shape[1:])
