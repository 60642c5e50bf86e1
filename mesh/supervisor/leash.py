"""Become a command that the kernel ends when its supervisor dies.

Run as a script: `python leash.py SUPERVISOR_PID COMMAND...`. nats-server knows nothing of the pipe
that Python services watch, so the kernel must do it; elsewhere than on Linux the next `mesh up`
ends what was left.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # It may have died before the tie was there.
        if os.getppid() != int(arguments[0]):
            sys.exit(1)
    os.execv(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
