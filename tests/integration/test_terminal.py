"""Who hears Ctrl-C."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

from tests.processes import REPOSITORY

# A parent that, like make, fails when the interrupt reaches it, and a child that ends in order.
PARENT = """
import subprocess, sys
try:
    code = subprocess.call([sys.executable, "-c", sys.argv[1]])
except KeyboardInterrupt:
    code = 130
print("ended", code, flush=True)
"""
CHILD = """
import signal, sys, time
from services.local.terminal import own_foreground
with own_foreground():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("drained", flush=True)
"""


def test_an_interrupt_from_the_terminal_reaches_the_launcher_alone() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        cwd=REPOSITORY,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        preexec_fn=lambda: _lead(follower),
    )
    os.close(follower)
    heard = b""
    deadline = time.monotonic() + 60
    interrupted = False
    while not re.search(rb"ended \d+\s", heard) and time.monotonic() < deadline:
        heard += os.read(leader, 1024)
        if b"ready" in heard and not interrupted:
            interrupted = True
            os.write(leader, b"\x03")
    process.wait(10)
    os.close(leader)
    assert b"drained" in heard
    assert b"ended 0" in heard


def _lead(terminal: int) -> None:
    import fcntl
    import termios

    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
