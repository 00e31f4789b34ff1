"""Measures one address in a closed loop with wrk."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}
JSON_HEADERS = {"Content-Type": "application/json"}


class BenchmarkError(Exception):
    """A measurement that means nothing: errors among the answers, or none at all."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Requests per second, and the latency in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table: which request is sent where."""

    name: str
    url: str
    body: bytes
    """`{id}` stands for a number that differs from request to request."""
    ids: int = 1
    """How many of those there are, from 1 on."""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)

    @property
    def script(self) -> str:
        """The Lua script by which wrk makes its requests."""
        lines = ['wrk.method = "POST"', f"wrk.body = {_lua_string(self.body)}"]
        for name, value in self.headers.items():
            lines.append(f'wrk.headers["{name}"] = "{value}"')
        if b"{id}" in self.body:
            before, _, after = self.body.partition(b"{id}")
            text = f"{_lua_string(before)} .. number .. {_lua_string(after)}"
            lines += [
                "local number = 0",
                "request = function()",
                f"  number = number % {self.ids} + 1",
                f"  return wrk.format(nil, nil, nil, {text})",
                "end",
            ]
        return "\n".join([*lines, ""])


def _lua_string(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def run(case: Case, connections: int, seconds: int, folder: Path) -> Measurement:
    """Load one address from one thread.

    Raises:
        BenchmarkError: an answer was not 2xx, a connection failed, or wrk did.
    """
    script = folder / "request.lua"
    script.write_text(case.script)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*argv, case.url], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{case.name}: {done.stdout}{done.stderr}")
    return parse(done.stdout, case.name)


def parse(text: str, name: str) -> Measurement:
    """Read wrk's report.

    Raises:
        BenchmarkError: it reports failures, or is not a report.
    """
    for sign in ("Non-2xx", "Socket errors"):
        if sign in text:
            line = next(line for line in text.splitlines() if sign in line)
            raise BenchmarkError(f"{name}: {line.strip()}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None or float(rate[1]) == 0:
        raise BenchmarkError(f"{name}: no requests were answered:\n{text}")
    return Measurement(float(rate[1]), _percentile(text, "50"), _percentile(text, "99"))


def _percentile(text: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"no {percent} % in:\n{text}")
    return float(found[1]) * _UNITS[found[2]]
