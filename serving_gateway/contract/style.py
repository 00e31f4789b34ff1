"""The style of every page: the gateway's own, and those that the pipeline writes."""

from importlib.resources import files


def page_style() -> str:
    """Return the style sheet: light and dark, for phones and for print."""
    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")
