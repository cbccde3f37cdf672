"""Writing to disk so that a reader never sees half a file: write beside the target, then rename."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshgan.errors import MeshganError


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing `target` into a `MeshganError` that names it and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MeshganError(f"{target}: the disk is full; free some space or choose another place.") from error
        raise MeshganError(f"{target}: cannot be written ({error.strerror or error}).") from error


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on failure it is removed.

    The data is flushed to disk before the rename, so that a power cut leaves the old file or the new one.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    with disk_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it becomes `target`, on failure it is removed.

    Raises `MeshganError` if `target` exists and holds something: nothing of the user's is overwritten.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MeshganError(f"{target} exists already; remove it or choose another name.")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    with disk_errors(target):
        try:
            partial.mkdir(parents=True)
            yield partial
            if target.exists():
                target.rmdir()
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
