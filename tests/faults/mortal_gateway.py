"""`python -m tests.faults.mortal_gateway POINT...`: a gateway that dies, and comes back.

Each life is forked off this process, which has imported the gateway, and ends at the next one of
the points, after the last one again at the first. Each end by `kill -9` is printed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from types import FrameType

from serving_gateway.__main__ import main as serve
from tests.faults.killing import KillPoint


def _live(point: KillPoint) -> int:
    """Serve in a child that dies at a point; its exit code, or its signal as a negative."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        point.arm()
        os._exit(serve())

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    for point in itertools.cycle(map(KillPoint.parse, sys.argv[1:])):
        if (code := _live(point)) != -signal.SIGKILL:
            break
        print(f"killed {point}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
