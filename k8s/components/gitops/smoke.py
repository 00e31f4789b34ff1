"""Ask a gateway how it is: that it lives, and that it serves or says why it does not yet.

An empty platform passes: no version was promoted, which no deployment can change. Anything else
that keeps a gateway from being ready fails the sync.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

DEADLINE_S = 120


def ask(path: str) -> tuple[int, str]:
    """Return the status and the body of a GET; raises OSError when there is no answer."""
    try:
        with urllib.request.urlopen(os.environ["GATEWAY"] + path, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def state() -> tuple[bool, str]:
    """Whether all is well, and what was seen."""
    try:
        health, _ = ask("/health")
        ready, why = ask("/ready")
        models, page = ask("/models")
    except OSError as error:
        return False, f"no gateway answers: {error}"
    if ready == 200:
        return health == 200, f"/health {health}, /ready {ready}"
    generation = json.loads(page).get("generation") if models == 200 else None
    return health == 200 and generation == 0, f"/ready {ready}, generation {generation}: {why}"


def main() -> int:
    """Wait until all is well, at most two minutes; exit code 1 otherwise."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        well, seen = state()
        if well or time.monotonic() > deadline:
            print(seen)
            return 0 if well else 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
