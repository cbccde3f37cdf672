"""The errors, and the warning, that a person is meant to read: what is wrong, where, and what to do."""


class MeshganError(Exception):
    """Something failed for a reason outside the program: a damaged file, a full disk, a collapsed training."""

    exit_status = 1


class DiskError(MeshganError):
    """Something could not be written: a full disk, a folder that may not be changed."""


class UsageError(MeshganError):
    """The command or call itself is wrong: a missing folder, an unknown recipe key, meshes of another template."""

    exit_status = 2


class MeshganWarning(UserWarning):
    """Something was left out or taken otherwise than a person may expect; the sentence says what."""
