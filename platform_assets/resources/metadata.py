"""Metadata of assets and checks for Dagster's UI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from platform_assets.resources.plots import inline


def table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return a table of one or more rows with the same columns."""
    return dg.MetadataValue.table([dg.TableRecord({**row}) for row in rows])


def picture(png: bytes, alternative: str) -> dg.MarkdownMetadataValue:
    """Return a picture with its alternative text."""
    return dg.MetadataValue.md(inline(png, alternative))


def plain_markdown(text: str) -> str:
    """Return text as one line of Markdown without links, pictures, code or HTML."""
    return re.sub(r"([\\`\[\]<|])", r"\\\1", " ".join(text.split()))


def join_versions(versions: Iterable[int]) -> str:
    """Return the versions as text, separated by commas; "none" without any."""
    return ", ".join(map(str, versions)) or "none"
