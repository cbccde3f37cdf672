"""Principal components of training faces: the linear path beside the convolutions."""

import numpy as np

from meshgan.arrays import Singles
from meshgan.data.faceset import FaceSet, some_rows

MOST = 2000  # faces that the components are estimated from
VARIANCES = {"uniform": 1 / 3, "standard-normal": 1.0}  # of the numbers in a code


def principal_matrix(faces: FaceSet, count: int, prior: str = "uniform") -> Singles:
    """`count` principal axes (count, V, 3) of the training part in network units, times their deviations.

    With codes drawn from the prior, U(-1, 1) or N(0, I), `code @ matrix` has the covariance of the faces. Axes beyond
    the number of faces are zero.
    """
    rows = some_rows(faces.split.train, MOST)
    values = faces.normalisation.apply(faces.vertices[rows]).reshape(len(rows), -1)
    variances, left = np.linalg.eigh(values @ values.T / len(rows))
    strongest = np.argsort(variances)[::-1][: min(count, len(rows) - 1)]
    matrix = np.zeros((count, values.shape[1]), dtype=np.float32)
    matrix[: len(strongest)] = np.sqrt(1 / VARIANCES[prior] / len(rows)) * left[:, strongest].T @ values
    return matrix.reshape(count, *faces.vertices.shape[1:])
