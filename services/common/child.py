"""Becomes another program that dies with its parent: `child.py PARENT_PID PROGRAM ARGUMENTS…`.

A process of its own does this between fork and exec, because Python code may not run there in a
parent that has threads. Linux only; elsewhere the program just runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def child_command(program: Sequence[str]) -> list[str]:
    """The command line that runs `program` as a child of this process, however this one ends."""
    return [sys.executable, "-S", __file__, str(os.getpid()), *program]


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGKILL: a parent that could not stop its children itself wants no further say.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
