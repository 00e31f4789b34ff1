"""`python -m tests.support.reference`: rewrite the generated tables of the pages.

A test fails when they are stale: the gateway's settings and error codes and the fields of a model
file are documented where they are defined.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from platform_assets import components
from platform_assets.components.reference import reference_table, table_reference
from serving_gateway import errors
from serving_gateway.errors import GatewayError
from serving_gateway.settings import Settings

GATEWAY: Final = Path(__file__).resolve().parents[2] / "serving_gateway"
GATEWAY_REFERENCE: Final = GATEWAY / "REFERENCE.md"
MODEL_FILE_REFERENCE: Final = Path(components.__file__).with_name("REFERENCE.md")


def settings_table() -> str:
    """Every setting of the gateway: variable, default, description."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    prefix = Settings.model_config["env_prefix"]
    for name, field in Settings.model_fields.items():
        variable = f"{prefix}{name}".upper()
        default = _default(field.get_default(call_default_factory=True))
        lines.append(f"| `{variable}` | {default} | {_cell(field.description or '')} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def errors_table() -> str:
    """Every class of errors: status, codes, meaning."""
    used = codes_in_use()
    lines = ["| status | code | meaning |", "|---|---|---|"]
    for kind in sorted(error_classes(), key=lambda one: one.status):
        codes = dict.fromkeys([kind.default_code, *sorted(used.get(kind.__name__, ()))])
        listed = ", ".join(f"`{code}`" for code in codes)
        lines.append(f"| {kind.status} | {listed} | {_cell(_meaning(kind))} |")
    return "\n".join(lines)


def error_classes() -> Iterator[type[GatewayError]]:
    """The errors that are answered to callers, in the order of their definition."""
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, GatewayError):
            yield found


def codes_in_use() -> dict[str, set[str]]:
    """Codes that raise sites give instead of their class's own, by the name of the class."""
    known = {kind.__name__: kind.__name__ for kind in error_classes()}
    known["invalid_value"] = "InvalidInput"  # a function that makes one
    found: dict[str, set[str]] = {}
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = known.get(ast.unparse(node.func)) if isinstance(node, ast.Call) else None
            if not isinstance(node, ast.Call) or name is None:
                continue
            for keyword in node.keywords:
                if keyword.arg == "code":
                    found.setdefault(name, set()).update(_codes(keyword.value))
    return found


def _codes(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant):
        yield str(value.value)
    elif isinstance(value, ast.IfExp):
        yield from (*_codes(value.body), *_codes(value.orelse))
    elif isinstance(value, ast.JoinedStr):
        parts = value.values
        yield "".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in parts)


def _meaning(kind: type[GatewayError]) -> str:
    if kind is GatewayError:
        return "A fault of the gateway itself. It is in the log, by its `request_id`."
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def rewritten(page: str, tables: Mapping[str, str] | None = None) -> str:
    """The page with its generated tables as they should be; by default those of the gateway.

    Raises:
        ValueError: a table's markers are not there.
    """
    tables = tables or {"settings": settings_table(), "errors": errors_table()}
    for name, table in tables.items():
        begin, end = (
            f"<!-- {name}: python -m tests.support.reference -->\n",
            f"<!-- end of {name} -->",
        )
        before, opening, rest = page.partition(begin)
        _, closing, after = rest.partition(end)
        if not opening or not closing:
            raise ValueError(f"the page lacks {begin.strip()!r} or, after it, {end!r}")
        page = f"{before}{begin}{table}\n{end}{after}"
    return page


def model_file_page() -> str:
    """The reference of the model file as it should be."""
    return rewritten(
        MODEL_FILE_REFERENCE.read_text(),
        {"model file": reference_table(), "feature table": table_reference()},
    )


def main() -> int:
    """Rewrite the pages; always 0."""
    GATEWAY_REFERENCE.write_text(rewritten(GATEWAY_REFERENCE.read_text()))
    MODEL_FILE_REFERENCE.write_text(model_file_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
