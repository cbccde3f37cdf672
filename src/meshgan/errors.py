"""The two errors that a person is meant to read: one sentence that says what is wrong, where, and what to do."""


class MeshganError(Exception):
    """Something failed for a reason outside the program: a damaged file, a full disk, a collapsed training."""

    exit_status = 1


class UsageError(MeshganError):
    """The command or call itself is wrong: a missing folder, an unknown recipe key, meshes of another template."""

    exit_status = 2
