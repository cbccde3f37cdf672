"""Reading and fitting what visitors bring, in a process of its own: with limits, and without keeping anybody else.

A file from outside may be made to take for ever, or all memory. So the studio never reads one itself: it writes it to
a folder of its own and names it to a worker, which reads it, registers it if it is a scan, and fits the models. Jobs
wait in line; one that runs out of time or memory, or whose visitor has left, ends with its worker, and the next one
gets a new worker. The two talk in lines of JSON over pipes; nothing that the worker says is run.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Faces, Singles
from meshgan.errors import MeshganError, UsageError
from meshgan.model.load import Model, load_model
from meshgan.storage import remove_file, remove_temporary
from meshgan.studio.exchange import Fitted, fit, read_upload, safe_name

READING, FITTING = 30.0, 120.0  # seconds
STARTING = 120.0  # seconds for a worker to be there, on a busy machine
MEMORY = 2 * 2**30  # bytes that a job may take, beyond what the worker needs for itself
GLANCE = 0.1  # seconds between looks at whether the visitor is still there
IDENTITY, EXPRESSION, STILL = "identity", "expression", "still.npy"
READY, READ = "ready", "read"


class GoneError(Exception):
    """The visitor has left."""


class Worker:
    """The line of jobs and the process that does them. It starts with the first job and ends with `close`."""

    def __init__(self, identity: Model, expression: Model | None, still: Faces | None) -> None:
        self._models = (identity, expression, still)
        self._line: deque[object] = deque()
        self._moved = threading.Condition()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def fit(
        self,
        name: str,
        content: bytes,
        unit: str,
        smiling: bool,
        gone: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> Fitted:
        """The codes nearest to the mesh or scan in a file (see `exchange.fit`), with the expression if `smiling`.

        `tell` is given a sentence at each stage. Raises `MeshganError` with a sentence if it cannot be read or fitted,
        takes too long or too much memory, and `GoneError` as soon as `gone()`.
        """
        ticket = object()
        with self._moved:
            self._line.append(ticket)
        try:
            self._wait(ticket, gone, tell)
            return self._do(name, content, unit, smiling, gone, tell)
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    def close(self) -> None:
        """End the process, and remove what was written for it."""
        self._kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            remove_temporary(folder)

    def _wait(self, ticket: object, gone: Callable[[], bool], tell: Callable[[str], None]) -> None:
        known = -1
        with self._moved:
            while before := self._line.index(ticket):
                if gone():
                    raise GoneError
                if before != known:
                    known = before
                    tell(f"{before} {'file is' if before == 1 else 'files are'} before yours. Please wait …")
                self._moved.wait(GLANCE)

    def _do(
        self, name: str, content: bytes, unit: str, smiling: bool, gone: Callable[[], bool], tell: Callable[[str], None]
    ) -> Fitted:
        shown = safe_name(name)
        tell("Please wait …")
        self._start(gone)
        assert self._folder is not None
        path = self._folder / f"upload{Path(name).suffix.lower()[:8]}"
        try:
            path.write_bytes(content)
            self._ask({"name": name, "path": str(path), "unit": unit, "smiling": smiling})
            late = f"{shown} could not be read within {READING:.0f} seconds; reduce it first."
            answer = self._answer(READING, late, shown, gone)
            if answer.get("stage") == READ:
                tell(str(answer["sentence"]))
                late = f"{shown} could not be fitted within {FITTING:.0f} seconds; cut out the face first."
                answer = self._answer(FITTING, late, shown, gone)
        except OSError as error:
            self._kill()
            raise MeshganError(f"{shown}: the studio cannot keep files just now ({error.strerror}).") from error
        finally:
            remove_file(path)
        if "fault" in answer:
            raise RuntimeError(answer["fault"])
        if "sentence" in answer:
            raise (UsageError if answer.get("usage") else MeshganError)(str(answer["sentence"]))
        codes = [_array(answer[key]) if answer.get(key) else None for key in (IDENTITY, EXPRESSION)]
        assert codes[0] is not None
        return Fitted(_array(answer["target"]).reshape(-1, 3), codes[0], codes[1])

    def _start(self, gone: Callable[[], bool]) -> None:
        """See to it that there is a worker."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="meshgan-studio-"))
            identity, expression, still = self._models
            identity.save(self._folder / IDENTITY)
            if expression is not None and still is not None:
                expression.save(self._folder / EXPRESSION)
                np.save(self._folder / STILL, still)
        command = [sys.executable, "-c", "from meshgan.studio.worker import main; main()", str(self._folder)]
        paths = [str(Path(path).resolve()) for path in sys.path]
        self._said = SimpleQueue()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the studio, which then ends its worker
        )
        threading.Thread(target=_listen, args=(self._process, self._said), name="meshgan-worker", daemon=True).start()
        self._answer(STARTING, "The studio is too busy to fit anything just now.", "This file", gone)

    def _ask(self, job: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, seconds: float, late: str, shown: str, gone: Callable[[], bool]) -> dict[str, Any]:
        """What the worker says next. If it says nothing in time, or nobody waits for it any more, it is ended."""
        end = time.monotonic() + seconds
        while True:
            try:
                answer = self._said.get(timeout=GLANCE)
            except Empty:
                if gone():
                    self._kill()
                    raise GoneError from None
                if time.monotonic() > end:
                    self._kill()
                    raise UsageError(late) from None
                continue
            if not answer:  # it has ended
                self._kill()
                if gone():
                    raise GoneError
                raise UsageError(f"{shown} took more memory than the studio gives to one file, or its reader failed.")
            return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        with suppress(OSError):
            process.stdin and process.stdin.close()
        process.wait()


def _listen(process: subprocess.Popen[bytes], said: "SimpleQueue[dict[str, Any]]") -> None:
    """Put what the worker says into a queue, and an empty answer when it has ended."""
    assert process.stdout is not None
    with process.stdout, suppress(ValueError, OSError):
        for line in process.stdout:
            answer = json.loads(line)
            said.put(answer if isinstance(answer, dict) else {})
    said.put({})


def _array(text: str) -> Singles:
    return np.frombuffer(base64.b64decode(text), "<f4").copy()


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


# In the worker


def main() -> None:
    """Be the worker: load the models of the folder that is named, then do one job for each line that comes in."""
    folder = Path(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    jobs: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            jobs.put(json.loads(line))
        remove_temporary(folder)  # the studio has ended, perhaps without having had time for this
        os._exit(0)

    def say(**answer: Any) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    threading.Thread(target=listen, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)  # those who move sliders go first
    identity = load_model(folder / IDENTITY)
    smiles = (folder / STILL).is_file()
    expression, still = (load_model(folder / EXPRESSION), np.load(folder / STILL)) if smiles else (None, None)
    _limit_memory()
    say(stage=READY)
    while True:
        job = jobs.get()
        say(**_done(job, say, identity, expression if job["smiling"] else None, still))


def _done(job: dict[str, Any], say: Callable[..., None], identity: Model, expression: Model | None, still: Any) -> Any:
    """The answer to one job."""
    shown = safe_name(job["name"])
    try:
        upload = read_upload(job["name"], Path(job["path"]), job["unit"])
        known = len(upload.mesh.vertices) == len(identity.template.vertices)
        what = "Fitting the model to your mesh" if known else "Finding the face in your scan, then fitting the model"
        say(stage=READ, sentence=f"{what} …")
        found = fit(upload, identity, expression, still)
        answer = {"target": _text(found.target), IDENTITY: _text(found.identity)}
        return answer if found.expression is None else answer | {EXPRESSION: _text(found.expression)}
    except MeshganError as error:
        return {"sentence": str(error), "usage": isinstance(error, UsageError)}
    except MemoryError:
        return {"sentence": f"{shown} takes more memory than the studio gives to one file; reduce it first."}
    except Exception:
        return {"fault": traceback.format_exc()}


def _limit_memory() -> None:
    """Let this process take `MEMORY` more than it has, where the system can see to that."""
    with suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))
        stacks = 16 * 2**20 * (os.cpu_count() or 1)
        limit = 1024 * kilobytes + stacks + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
