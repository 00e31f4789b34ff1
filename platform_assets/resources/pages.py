"""Building blocks of the pipeline's HTML pages, in the style of the gateway's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from serving_gateway.contract import page_style

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page runs and loads nothing, since it shows untrusted texts."""


def page(title: str, *parts: str) -> str:
    """Return a complete page made of these parts."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{page_style()}</style></head>\n"
        "<body><header><p class='brand'><strong>Readygate</strong></p></header>\n<main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def headline(title: str, verdict: str, sentence: str, *, good: bool, more: str = "") -> str:
    """Return the first section: the subject of the page and the result; `more` is HTML."""
    return (
        f"<section><p class='verdict'><span class='{_class(good)}'>{_glyph(good)} "
        f"{escape(verdict)}</span></p>"
        f"<h1>{escape(title)}</h1>{paragraph(sentence)}{more}</section>"
    )


def section(title: str, *parts: str) -> str:
    """Return a section of HTML parts."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, *, soft: bool = False) -> str:
    """Return a paragraph."""
    return f"<p class='soft'>{escape(text)}</p>" if soft else f"<p>{escape(text)}</p>"


def checklist(claims: Mapping[str, bool]) -> str:
    """Return a list of sentences, each with a mark that shows whether it holds."""
    items = [
        f"<li class='{_class(good)}'>{_glyph(good)}<span>{escape(text)}</span></li>"
        for text, good in claims.items()
    ]
    return f"<ul class='marks'>{''.join(items)}</ul>"


def definition_list(values: Mapping[str, object]) -> str:
    """Return a definition list of names and values."""
    pairs = [
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    ]
    return f"<dl>{''.join(pairs)}</dl>"


def table(records: Iterable[Mapping[str, object]], caption: str = "") -> str:
    """Return a table of records with the same keys; a wide one scrolls on its own."""
    lines = [*records]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in lines[0])
    rows = ["".join(f"<td>{escape(str(value))}</td>" for value in line.values()) for line in lines]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    named = escape(caption or "table", quote=True)
    return (
        f"<div class='wide' role='group' tabindex='0' aria-label='{named}'><table>"
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(source: str, alternative: str) -> str:
    """Return a picture given as a data URL."""
    image = f"<img src='{escape(source)}' alt='{escape(alternative)}'>"
    return f"<figure tabindex='0'>{image}</figure>"


def link(address: str, text: str) -> str:
    """Return an external link."""
    return f"<a href='{escape(address)}' rel='noreferrer'>{escape(text)}</a>"


def collapsible(title: str, part: str) -> str:
    """Return a part that is collapsed under its title."""
    return f"<details><summary>{escape(title)}</summary>{part}</details>"


def verbatim(text: str, name: str) -> str:
    """Return a text verbatim, in a box that scrolls."""
    return f"<pre tabindex='0' aria-label='{escape(name)}'>{escape(text)}</pre>"


def _glyph(good: bool) -> str:
    return f"<span class='glyph' aria-hidden='true'>{'✓' if good else '✕'}</span>"


def _class(good: bool) -> str:
    return "ok" if good else "bad"
