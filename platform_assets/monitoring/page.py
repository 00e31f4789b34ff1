"""A drift report as one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Final

from platform_assets.monitoring.records import FEWEST_UNITS

if TYPE_CHECKING:
    from platform_assets.monitoring.records import ColumnDrift, DriftReport

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       color: #1f2937; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e5e7eb; text-align: right }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
"""
_EXAMPLE_LENGTH: Final = 40


def summary(report: DriftReport) -> str:
    """Return the report in one sentence."""
    if not report.enough:
        return (
            f"not enough to judge: {report.rows} samples of {report.units} entities or requests "
            f"of version {report.version} in the window; {report.min_rows} samples of "
            f"{FEWEST_UNITS} are wanted at least"
        )
    if not report.judged:
        return (
            f"there is nothing to compare {report.rows} samples of version {report.version} "
            f"with: {'; '.join(report.not_compared)}"
        )
    if not report.drifted:
        return (
            f"{report.rows} samples of version {report.version} look like the training set: "
            f"none of {len(report.columns)} columns is over its limit"
        )
    named = ", ".join(f"{c.name} ({c.finding})" for c in report.drifted)
    return (
        f"{len(report.drifted)} of {len(report.columns)} columns drifted in {report.rows} "
        f"samples of version {report.version}: {named}"
    )


def drift_page(report: DriftReport, facts: Mapping[str, object], picture: str | None) -> str:
    """Return the page.

    `facts` are what a reader wants to know of the comparison, `picture` is a data URL.
    """
    title = escape(f"Drift of {report.model_name} version {report.version}")
    sentence = summary(report)
    sentence = sentence[:1].upper() + sentence[1:]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(sentence)}.</p>",
        _table({"fact": name, "value": value} for name, value in facts.items()),
    ]
    if picture:
        parts.append(f"<img alt='population stability by column' src='{escape(picture)}'>")
    if report.columns:
        parts += [_table(map(column_row, report.worst_first)), "<h2>Distributions</h2>"]
        parts += [_distribution(column) for column in report.worst_first]
    if report.not_compared:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in report.not_compared)
        parts.append(f"<h2>Not compared</h2><ul>{items}</ul>")
    return "\n".join(parts) + "\n"


def column_row(column: ColumnDrift) -> dict[str, str]:
    """Return the line of a column in the tables of the page and of Dagster."""
    new = column.novelty
    examples = ", ".join(text[:_EXAMPLE_LENGTH] for text in new.examples) if new else ""
    return {
        "column": column.name,
        "kind": column.kind,
        "stability index": f"{column.psi:.4f}",
        "limit": f"{column.limit:.4f}",
        "by chance": f"{column.chance:.4f}",
        "drifted": "yes" if column.drifted else "",
        "missing before": f"{column.missing_reference:.2%}",
        "missing now": f"{column.missing_current:.2%}",
        "never seen": f"{new.unseen:.2%}" + (examples and f": {examples}") if new else "",
        "vanished": f"{new.vanished:.2%}" if new else "",
    }


def _distribution(column: ColumnDrift) -> str:
    shares = zip(column.bins, column.reference, column.current, strict=True)
    table = _table(
        {"values": label, "training": f"{before:.2%}", "answered": f"{now:.2%}"}
        for label, before, now in shares
    )
    return f"<details><summary>{escape(column.name)}</summary>{table}</details>"


def _table(records: Iterable[Mapping[str, object]]) -> str:
    lines = [*records]
    rows = ["".join(f"<th>{name}</th>" for name in lines[0])]
    rows += ["".join(f"<td>{escape(str(value))}</td>" for value in line.values()) for line in lines]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
