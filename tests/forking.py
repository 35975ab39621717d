"""Templates of processes: each has imported a service's code, and is copied whenever a test starts
that service.

A copy is a process like any other, with its own environment, log and ports; but importing what it
needs, which takes seconds of a processor, is done once in a test run. `SIGHTLINE_TEST_IMPORTS=anew`
starts every process from an empty interpreter, as those are that these tests start by a command.
"""

import contextlib
import fcntl
import gc
import importlib
import importlib.util
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = "SIGHTLINE_TEST_TEMPLATES"  # where the templates of this run listen
OWNER = "SIGHTLINE_TEST_OWNER"  # the process that they end with
IMPORTS = "SIGHTLINE_TEST_IMPORTS"
# What a service imports only once it runs.
LATER = {"services.inference_worker": "services.inference_worker.assembly"}
MAX_REQUEST_BYTES = 128 * 1024
START_S = 120.0
# Variables that are read when an interpreter or a library starts.
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LD_")


class Copy:
    """A copied process, as `subprocess.Popen` has it."""

    def __init__(self, module: str, line: socket.socket, pid: int) -> None:
        self.args = module
        self.pid = pid
        self.returncode: int | None = None
        self._line = line

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            said = self._line.recv(64)
            self.returncode = json.loads(said) if said else -signal.SIGKILL
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def may_copy(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables of its own may be a copy."""
    return (
        FOLDER in os.environ
        and "anew" not in (os.environ.get(IMPORTS), environment.get(IMPORTS))
        and not any(name.startswith(_READ_AT_START) for name in environment)
    )


def start(module: str, environment: Mapping[str, str], output: IO[bytes]) -> Copy:
    """Start `python -m <module>` in the repository as a copy of its template."""
    line = _connected(module)
    request = json.dumps(dict(environment)).encode()
    assert len(request) < MAX_REQUEST_BYTES
    socket.send_fds(line, [request], [output.fileno()])
    return Copy(module, line, json.loads(line.recv(64)))


def _connected(module: str) -> socket.socket:
    """A connection to the template of a module, which the first who asks for it starts."""
    path = Path(os.environ[FOLDER]) / module
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            command = [sys.executable, "-m", "tests.forking", module, str(path), os.environ[OWNER]]
            log = Path(f"{path}.log")
            with log.open("wb") as output:
                template = subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            deadline = time.monotonic() + START_S
            while not path.exists():
                assert template.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.02)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(str(path))
    return line


class _Template:
    """The template's loop. It has one thread, and holds nothing that a copy must not have but
    sockets, which the copy closes."""

    def __init__(self, path: Path, owner: int) -> None:
        self._owner = owner
        self._lines: dict[int, socket.socket] = {}  # by the copy's pid
        self._selector = selectors.DefaultSelector()
        self._woken, self._waking = socket.socketpair()
        self._waking.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"{path}.new")
        self._listener.listen()
        os.rename(f"{path}.new", path)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> Mapping[str, str] | None:
        """Returns in every copy, with its environment, and None in the template at the end."""
        while self._lines or self._owner_lives():
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                elif key.fileobj is self._listener:
                    if (environment := self._copy()) is not None:
                        return environment
                else:  # whoever started it is gone
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
        return None

    def _owner_lives(self) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._owner, 0)
            return True
        return False

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                line = self._lines.pop(pid, None)
                if line is None:
                    continue
                with contextlib.suppress(KeyError):
                    self._selector.unregister(line)
                with contextlib.suppress(OSError):
                    line.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
                line.close()

    def _copy(self) -> Mapping[str, str] | None:
        line, _ = self._listener.accept()
        request, outputs, _, _ = socket.recv_fds(line, MAX_REQUEST_BYTES, 1)
        (output,) = outputs
        pid = os.fork()
        if pid:
            os.close(output)
            self._lines[pid] = line
            self._selector.register(line, selectors.EVENT_READ, pid)
            line.send(json.dumps(pid).encode())
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for open_socket in (line, *self._lines.values(), self._listener, self._woken, self._waking):
            open_socket.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        environment: dict[str, str] = json.loads(request)
        return environment


def main() -> None:
    module, path, owner = sys.argv[1:]
    found = importlib.util.find_spec(module)
    assert found is not None
    program = f"{module}.__main__" if found.submodule_search_locations else module
    for name in (program, LATER.get(module)):
        if name is not None:
            importlib.import_module(name)
    del sys.modules[program]  # it is run in every copy
    gc.collect()
    gc.freeze()  # a collection would write into the pages that copies share
    environment = _Template(Path(path), int(owner)).serve()
    if environment is not None:
        gc.unfreeze()
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
