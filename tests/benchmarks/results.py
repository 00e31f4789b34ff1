"""What a run has measured so far, and how it is written down."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.picture import draw
from tests.benchmarks.report import verdict_table
from tests.benchmarks.targets import Verdict
from tests.benchmarks.wrk import BenchmarkError
from tests.support.servers import ServerError


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": psutil.cpu_count(),
        "load_average_at_start": round(psutil.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


@dataclass(slots=True)
class Results:
    """Figures by part, the report's paragraphs, verdicts, and parts that failed."""

    machine: dict[str, Any] = field(default_factory=machine)
    figures: dict[str, Any] = field(default_factory=dict)
    paragraphs: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def keep(self, part: str, found: Any, paragraph: str, verdicts: Sequence[Verdict]) -> None:
        """Add what a part measured."""
        self.figures[part] = found
        self.paragraphs.append(paragraph)
        self.verdicts += verdicts

    @contextlib.contextmanager
    def attempt(self, part: str) -> Iterator[None]:
        """Measure a part; a failure is reported, and the other parts are still measured."""
        sys.stderr.write(f"{part}\n")
        try:
            yield
        except (BenchmarkError, ServerError, TimeoutError) as error:
            self.problems.append(f"{part} was not measured: {error}")

    @property
    def report(self) -> str:
        """The report in Markdown."""
        cores, load = self.machine["cores"], self.machine["load_average_at_start"]
        paragraphs = [*self.paragraphs, f"{cores} cores; load average at the start {load}."]
        if self.verdicts:
            paragraphs.append(verdict_table(self.verdicts))
        return "\n\n".join([*paragraphs, *self.problems])

    def write(self, path: Path) -> list[Path]:
        """Write the figures (JSON), the report and, of the closed loop, a picture; the files."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": self.machine,
            **self.figures,
            "verdicts": [{**asdict(one), "is_reached": one.is_reached} for one in self.verdicts],
            "problems": self.problems,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        report = path.with_suffix(".md")
        report.write_text(f"{self.report}\n")
        if "throughput" not in self.figures:
            return [path, report]
        picture = path.with_suffix(".png")
        draw(self.figures["throughput"]["rows"], picture)
        return [path, report, picture]
