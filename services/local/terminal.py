"""Ctrl-C for the launcher alone.

Run by `make` in a terminal, the launcher shares its foreground process group with make and a shell.
Ctrl-C would reach them too, and make would call the run a failure however orderly it ended. As
shells do for their jobs, the launcher moves to a group of its own and makes that the foreground.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def own_foreground() -> Iterator[None]:
    """Hold the terminal, if there is one and it is ours to take; give it back at the end.

    Ctrl-Z is ignored meanwhile: nobody outside would notice that the run was stopped.
    """
    try:
        terminal = sys.stdin.fileno()
        holder = os.tcgetpgrp(terminal)
    except (OSError, ValueError):  # no terminal
        holder = -1
    if holder != os.getpgrp() or holder == os.getpid():
        yield  # in the background, or leading a group already
        return
    ignored = (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpid())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, holder)
        for number, handler in before.items():
            signal.signal(number, handler)
