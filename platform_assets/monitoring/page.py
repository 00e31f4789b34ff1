"""A drift report as one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
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
tr.drifted { background: #fee2e2 }
img { max-width: 100% }
"""
_EXAMPLE_LENGTH: Final = 40
_HEADINGS: Final = (
    "column",
    "kind",
    "index",
    "limit",
    "by chance",
    "missing before",
    "missing now",
    "never seen",
    "vanished",
)


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


def drift_page(report: DriftReport, facts: Sequence[tuple[str, str]], picture: str | None) -> str:
    """Return the page.

    Args:
        report: what was found.
        facts: name and value of what a reader wants to know of the comparison.
        picture: address of the picture (a data URL), None when there is none.
    """
    title = f"Drift of {report.model_name} version {report.version}"
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{escape(_sentence(report))}</p>",
        "<table>",
        *(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts),
        "</table>",
    ]
    if picture:
        parts.append(f"<img alt='population stability by column' src='{escape(picture)}'>")
    if report.columns:
        parts += [_table(report.worst_first), "<h2>Distributions</h2>"]
        parts += [_distribution(column) for column in report.worst_first]
    if report.not_compared:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in report.not_compared)
        parts.append(f"<h2>Not compared</h2><ul>{items}</ul>")
    return "\n".join(parts) + "\n"


def _sentence(report: DriftReport) -> str:
    text = summary(report)
    return f"{text[:1].upper()}{text[1:]}."


def _table(columns: Sequence[ColumnDrift]) -> str:
    head = "".join(f"<th>{name}</th>" for name in _HEADINGS)
    rows = [
        f"<tr{' class=drifted' if column.drifted else ''}>"
        + "".join(f"<td>{escape(text)}</td>" for text in _cells(column))
        + "</tr>"
        for column in columns
    ]
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cells(column: ColumnDrift) -> tuple[str, ...]:
    return (
        column.name,
        column.kind,
        f"{column.psi:.4f}",
        f"{column.limit:.4f}",
        f"{column.chance:.4f}",
        f"{column.missing_reference:.2%}",
        f"{column.missing_current:.2%}",
        never_seen(column),
        vanished(column),
    )


def never_seen(column: ColumnDrift) -> str:
    """Return the share of texts that training never saw, with the most frequent of them."""
    if column.novelty is None:
        return ""
    shown = ", ".join(text[:_EXAMPLE_LENGTH] for text in column.novelty.examples)
    return f"{column.novelty.unseen:.2%}" + (f": {shown}" if shown else "")


def vanished(column: ColumnDrift) -> str:
    """Return the share of the training's texts that the window lacks."""
    return "" if column.novelty is None else f"{column.novelty.vanished:.2%}"


def _distribution(column: ColumnDrift) -> str:
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{before:.2%}</td><td>{now:.2%}</td></tr>"
        for label, before, now in zip(column.bins, column.reference, column.current, strict=True)
    )
    return (
        f"<details><summary>{escape(column.name)}</summary><table>"
        f"<tr><th>values</th><th>training</th><th>answered</th></tr>{rows}</table></details>"
    )
