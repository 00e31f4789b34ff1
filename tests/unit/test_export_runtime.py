"""ONNX Runtime in this process, as the exports use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.servers import ROOT

RUN = """
import numpy as np
from platform_assets.export.runtime import run_graph
from tests.support.onnx_models import telltale
print(run_graph(telltale(7), {"features": np.zeros((1, 4), np.float32)})["label"])
"""


def test_a_graph_is_run_without_telemetry(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-B", "-c", RUN]
    done = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[7]\n", done.stderr
    assert [*tmp_path.iterdir()] == [], "its cache of events, or the id of this device"
