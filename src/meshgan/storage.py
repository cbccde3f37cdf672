"""Writing, replacing and deleting on disk: the only place of the package that removes or renames anything.

* A reader never sees half a file: what is written lies beside its target until it is whole, then it is renamed.
* Nothing is deleted that this program cannot prove to have written. The proof is a list, `.written`, of the names
  and SHA-256 sums of files, in the form of `sha256sum`; a file that was changed since is nobody's to delete.
* What a killed process left half-written is recognised by a seal in its name and by nobody holding its lock; the
  next process that writes in the same folder removes it.
* `alone_in` keeps two runs out of one folder.
"""

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from meshgan.errors import DiskError, MeshganError, UsageError

if sys.platform != "win32":  # there, nobody is kept out, and what killed processes leave stays
    import fcntl

LIST = ".written"
PARTIAL, REPLACED = ".partial", ".replaced"  # endings of what is not whole yet, and of what is about to go
LONGEST_STEM = 200  # bytes of a name that its partial repeats: file systems allow 255
NONCE, SEAL = 8, 8  # hexadecimal digits
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS}

_swept: set[Path] = set()  # folders in which this process has looked for what killed ones left


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing `target` into a `DiskError` that names it and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"{target}: the disk is full; free some space or choose another place.") from error
        raise DiskError(f"{target}: cannot be written ({error.strerror or error}).") from error


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on failure it is removed.

    The data is flushed to disk before the rename, so that a power cut leaves the old file or the new one. A
    symbolic link stays, and the file that it leads to is written; what is no file (a device, a folder) is refused.
    """
    with disk_errors(target):
        place = target.resolve() if target.is_symlink() else target
        if place.exists() and not place.is_file():
            raise DiskError(f"{target} is no file that could be replaced; choose another name.")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (folder := place.parent.absolute()) not in _swept:
            _swept.add(folder)
            sweep(folder)
        with _partial(place, _new_file) as partial:
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            partial.chmod(mode)  # some libraries write a file of their own in its place, for its owner's eyes only
            with partial.open("r+b") as stream:  # Windows flushes only what may be written
                os.fsync(stream.fileno())
            _note(place, partial)
            partial.replace(place)


@contextmanager
def atomic_folder(target: Path, keep: Callable[[PurePath], bool] | None = None, listed: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it becomes `target`, on failure it is removed.

    Raises `MeshganError` if `target` exists and holds something: nothing of the user's is overwritten. With `listed`,
    the folder holds a list of what was written. With `keep`, an earlier folder with a list is replaced: its files
    that are unchanged go, all others move to the new folder. One of those that would stand in the way of a new file
    is refused, unless `keep` (of its path within the folder) says that it takes the new one's place. Without a list
    of what was written, all that a folder holds must be files to keep. Raises `UsageError` if another process is
    writing `target` now.
    """
    with disk_errors(target):
        _restore(target)
        require_replaceable(target, keep)
        if sweep(target.parent, target.name):
            raise UsageError(f"another process is writing {target}; wait for it to end, or choose another name.")
        with _partial(target, _new_folder) as partial:
            try:
                yield partial
            except DiskError as error:  # of a file within, by the name that nobody knows
                raise DiskError(str(error).replace(str(partial), str(target))) from error
            require_replaceable(target, keep)
            if listed or keep is not None:
                _write_list(partial)
            _put_in_place(partial, target, keep)


def require_replaceable(target: Path, keep: Callable[[PurePath], bool] | None = None) -> None:
    """Raise `MeshganError` where `atomic_folder` would, before any work is done."""
    if target.is_symlink():
        raise MeshganError(f"{target} is a symbolic link; give the folder itself, under a name that is free.")
    if not target.exists():
        return
    if not target.is_dir():
        raise MeshganError(f"{target} exists already and is a file; choose another name.")
    with disk_errors(target):
        if not any(target.iterdir()):
            return
        others = strangers(target) if keep is not None else []
    if keep is None or not ((target / LIST).is_file() or all(map(keep, others))):
        raise MeshganError(f"{target} exists already; remove it or choose another name.")
    changed = [path for path in others if path.as_posix() in _listed(target) and not keep(path)]
    if changed:
        raise MeshganError(f"{target / changed[0]} was changed since it was written; move it away and run again.")


def strangers(folder: Path) -> list[PurePath]:
    """Paths within `folder` of all that its list does not prove to be ours: changed, added, links, empty folders."""
    sums = _listed(folder)
    return [path for path in _content(folder) if not _is_ours(folder, path, sums)]


def keep_list(folder: Path) -> None:
    """Make a folder, if it is not there, and note from now on what `atomic_file` writes in it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LIST).touch()


def remove_written(folder: Path) -> None:
    """Delete the files of a folder that its list proves to be ours, and the folder unless it holds something else."""
    if folder.is_symlink() or not (folder / LIST).is_file():
        return
    sums = _listed(folder)
    with suppress(OSError):
        ours = [path for path in _content(folder) if _is_ours(folder, path, sums)]
        for path in ours:
            (folder / path).unlink()
        held = {parent for path in ours for parent in path.parents if parent.parts}
        for parent in sorted(held, key=lambda path: -len(path.parts)):
            with suppress(OSError):
                (folder / parent).rmdir()  # only if nothing is left in it
        if {path.name for path in folder.iterdir()} == {LIST}:
            (folder / LIST).unlink()
            folder.rmdir()


def remove_file(path: Path) -> None:
    """Delete one file that the caller knows to be its own: a checkpoint that newer ones replace, a spent mark."""
    with disk_errors(path):
        path.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Delete a folder that the caller has made with `tempfile.mkdtemp`; one that lies elsewhere is left alone."""
    if not folder.is_symlink() and folder.absolute().is_relative_to(Path(tempfile.gettempdir()).absolute()):
        shutil.rmtree(folder, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Give a damaged file a name under which nobody looks for it, never that of another file; returns it."""
    number, place = 0, path.with_suffix(".damaged")
    while place.exists():
        number += 1
        place = path.with_suffix(f".{number}.damaged")
    with disk_errors(path):
        return path.rename(place)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is not there, and clear away what killed ones left.

    Raises `UsageError` if another process is in it. The lock ends with the process, however it ends.
    """
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; choose another name for the folder.")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _lock(folder)
        except BlockingIOError:
            raise UsageError(
                f"another run is at work in {folder}; wait for it to end, or choose another name."
            ) from None
    try:
        sweep(folder)
        yield
        sweep(folder)
    finally:
        _unlock(lock)


def sweep(folder: Path, name: str | None = None) -> bool:
    """Remove what killed processes left half-written in `folder`, of the target `name` or of all.

    Returns whether something is being written there by a process that lives.
    """
    busy = False
    with suppress(OSError):  # a folder that may not be listed
        for path in list(folder.iterdir()):
            if not _is_sealed(path.name, PARTIAL, name) or path.is_symlink():
                continue
            try:
                lock = _lock(path)
            except BlockingIOError:
                busy = True
                continue
            except OSError:
                continue
            if lock is not None:
                _delete(path)
                _unlock(lock)
    return busy


@contextmanager
def _partial(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside `target`, locked while it is in use and gone afterwards."""
    while True:
        partial = target.with_name(_sealed(target.name, PARTIAL))
        make(partial)
        lock = _lock(partial)
        if lock is None or partial.exists():  # else a sweep has taken it for one of a killed process
            break
        _unlock(lock)
    try:
        yield partial
    finally:
        _unlock(lock)
        _delete(partial)


def _new_file(path: Path) -> None:
    path.touch(exist_ok=False)


def _new_folder(path: Path) -> None:
    path.mkdir(parents=True)


def _delete(path: Path) -> None:
    """Remove what bears the seal of this program, if it is there still."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sealed(name: str, ending: str) -> str:
    """A hidden name for what will be `name`, which no other program and no person would choose."""
    nonce = uuid.uuid4().hex[:NONCE]
    return f".{_stem(name)}.{nonce}{_seal(_stem(name), nonce)}{ending}"


def _stem(name: str) -> str:
    while len(os.fsencode(name)) > LONGEST_STEM:
        name = name[:-1]
    return name


def _seal(stem: str, nonce: str) -> str:
    return hashlib.sha256(b"meshgan " + nonce.encode() + b" " + os.fsencode(stem)).hexdigest()[:SEAL]


def _is_sealed(name: str, ending: str, target: str | None = None) -> bool:
    if not (name.startswith(".") and name.endswith(ending)):
        return False
    stem, _, mark = name[1 : -len(ending)].rpartition(".")
    if len(mark) != NONCE + SEAL or mark[NONCE:] != _seal(stem, mark[:NONCE]):
        return False
    return target is None or stem == _stem(target)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder, None where there are none.

    Raises `BlockingIOError` if another one holds it. The lock ends with the descriptor.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_LOCKS:
            return None
        raise
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _content(folder: Path) -> list[PurePath]:
    """Paths within `folder` of its files, links and empty folders, but for its list; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [PurePath(here / name).relative_to(folder) for name in files + links]
        if not folders and not files and here != folder:
            found.append(PurePath(here).relative_to(folder))
    return [path for path in found if path != PurePath(LIST)]


def _listed(folder: Path) -> dict[str, set[str]]:
    """Name → sums (of all times that it was written) in a folder's list; lines that are damaged say nothing."""
    sums: dict[str, set[str]] = {}
    try:
        lines = (folder / LIST).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return sums
    for line in lines:
        digest, _, name = line.partition("  ")
        if name:
            sums.setdefault(name, set()).add(digest)
    return sums


def _is_ours(folder: Path, path: PurePath, sums: dict[str, set[str]]) -> bool:
    known = sums.get(path.as_posix())
    return known is not None and stat.S_ISREG((folder / path).lstat().st_mode) and _sum(folder / path) in known


def _sum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _note(target: Path, partial: Path) -> None:
    """Add a file that is about to appear to the list of its folder, if that keeps one."""
    if (target.parent / LIST).is_file():
        line = f"{_sum(partial)}  {target.name}\n".encode(errors="surrogateescape")
        with (target.parent / LIST).open("ab", buffering=0) as stream:  # one write: others may note at the same time
            stream.write(line)


def _write_list(folder: Path) -> None:
    lines = [f"{_sum(folder / path)}  {path.as_posix()}\n" for path in _content(folder) if (folder / path).is_file()]
    (folder / LIST).write_bytes("".join(lines).encode(errors="surrogateescape"))


def _put_in_place(partial: Path, target: Path, keep: Callable[[PurePath], bool] | None) -> None:
    """Let `partial` become `target`, with all that was in `target` and is not ours."""
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()  # an empty one
        partial.replace(target)
        return
    others = strangers(target)
    for path in others:
        in_the_way = os.path.lexists(partial / path) and not ((target / path).is_dir() and (partial / path).is_dir())
        if keep is not None and not keep(path) and in_the_way:
            raise MeshganError(f"{target / path} is in the way and not ours to delete; move it away and run again.")
    for path in others:
        _copy(target / path, partial / path)
    old = target.with_name(_sealed(target.name, REPLACED))
    target.replace(old)
    try:
        partial.replace(target)
    except OSError:
        old.replace(target)
        raise
    for path in others:
        if _is_copied(old / path, target / path):
            _delete_copied(old / path)
    remove_written(old)
    with suppress(OSError):
        (old / LIST).unlink(missing_ok=True)
        old.rmdir()


def _restore(target: Path) -> None:
    """Undo a replacement that was cut between its two renames."""
    if target.exists() or not target.parent.is_dir():
        return
    for path in target.parent.iterdir():
        if _is_sealed(path.name, REPLACED, target.name):
            path.replace(target)
            return


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        place.unlink(missing_ok=True)
        place.symlink_to(source.readlink())
    elif source.is_dir():
        place.mkdir(exist_ok=True)
    else:
        shutil.copy2(source, place)


def _is_copied(source: Path, place: Path) -> bool:
    if source.is_symlink() or place.is_symlink():
        return source.is_symlink() and place.is_symlink() and source.readlink() == place.readlink()
    return (source.is_dir() and place.is_dir()) or (source.is_file() and _sum(source) == _sum(place))


def _delete_copied(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
