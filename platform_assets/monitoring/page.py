"""A drift report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from platform_assets.monitoring.records import FEWEST_UNITS
from platform_assets.resources import pages

if TYPE_CHECKING:
    from platform_assets.monitoring.records import ColumnDrift, DriftReport

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

    `facts` are details of the comparison for the reader, `picture` is a data URL.
    """
    title = f"Drift of {report.model_name} version {report.version}"
    sentence = summary(report)
    parts = [
        pages.headline(
            title,
            _verdict(report),
            f"{sentence[:1].upper()}{sentence[1:]}.",
            good=report.judged and report.enough and not report.drifted,
        )
    ]
    if report.columns:
        rows = map(column_row, report.worst_first)
        shown = [pages.figure(picture, "population stability by column")] if picture else []
        parts += [
            pages.section("Change by column", *shown, pages.table(rows, "The worst first")),
            pages.section("Distributions", *map(_distribution, report.worst_first)),
        ]
    if report.not_compared:
        reasons = map(pages.paragraph, report.not_compared)
        parts.append(pages.section("Not compared", *reasons))
    parts.append(pages.section("What was compared", pages.definition_list(facts)))
    return pages.page(title, *parts)


def _verdict(report: DriftReport) -> str:
    if not report.enough or not report.judged:
        return "Not judged"
    return (
        f"{len(report.drifted)} of {len(report.columns)} columns drifted"
        if report.drifted
        else "No drift"
    )


def column_row(column: ColumnDrift) -> dict[str, str]:
    """Return a column's row in the tables of the page and of Dagster."""
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
    table = pages.table(
        (
            {"values": label, "training": f"{before:.2%}", "answered": f"{now:.2%}"}
            for label, before, now in shares
        ),
        f"Share of the rows by value of {column.name}",
    )
    return pages.collapsible(column.name, table)
