"""Derive valid names from the headers of a table, and interpret their meaning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from platform_assets.model_spec.columns import FeatureName, KeyName, TimeName

KEY: Final[TypeAdapter[str]] = TypeAdapter(KeyName)
TIME: Final[TypeAdapter[str]] = TypeAdapter(TimeName)
FEATURE: Final[TypeAdapter[str]] = TypeAdapter(FeatureName)

_LONGEST: Final = 60
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")
_SPELLED: Final = re.compile(r"(?:SYLLABLE|LETTER) (?:SMALL )?([A-Z]+)$")
_KEYS: Final = frozenset({"id", "ids", "identifier", "key", "uuid", "guid"})
_KOREAN_KEYS: Final = ("번호", "아이디", "식별")
_COUNTERS: Final = frozenset({"index", "no", "nr", "number", "row", "unnamed"})
_TIMES: Final = frozenset(
    {"at", "created", "date", "datetime", "day", "recorded", "time", "timestamp", "updated"}
)
_KOREAN_TIMES: Final = ("날짜", "시각", "시간", "일시", "일자")
_OTHER_TIMES: Final = frozenset(
    {"birth", "birthday", "birthdate", "born", "dob", "due", "expiration", "expires", "expiry"}
    | {"expire", "until", "valid"}
)
_KOREAN_OTHER_TIMES: Final = ("생년월일", "생일", "만료")


def words(header: str) -> frozenset[str]:
    """Return the words of a header in lower case: patient and id for `patientID`."""
    return frozenset(word.lower() for word in _WORDS.findall(header))


def names_key(header: str, table: str) -> bool:
    """Whether a header looks like that of an identifier, or of a row of `table`."""
    parts = words(header)
    thing = table.casefold()
    things = {thing, thing.removesuffix("s")} if len(thing) > 2 else set()
    is_thing = bool(things & {header.casefold()})
    return bool(parts & _KEYS) or is_thing or any(word in header for word in _KOREAN_KEYS)


def names_counter(header: str) -> bool:
    """Whether a header looks like that of a running number."""
    return bool(words(header) & _COUNTERS)


def names_time(header: str) -> bool:
    """Whether a header looks like that of an event time."""
    return bool(words(header) & _TIMES) or any(word in header for word in _KOREAN_TIMES)


def names_other_time(header: str) -> bool:
    """Whether a header looks like that of a time long before or after: a birthday, an expiry."""
    return bool(words(header) & _OTHER_TIMES) or any(word in header for word in _KOREAN_OTHER_TIMES)


def identifier(header: str, place: int, taken: Iterable[str], rule: TypeAdapter[Any]) -> str:
    """Return the header, or a similar name that `rule` accepts and no other column has.

    Args:
        header: header of the column.
        place: number of the column, from 1; used in the name if nothing can be spelled.
        taken: names in lower case.
        rule: one of `KEY`, `TIME` and `FEATURE`.
    """
    used = set(taken)
    stem = _in_ascii(header) or f"column_{place}"
    stem = f"column_{stem}" if stem[0].isdigit() else stem
    for name in (header, stem, f"{stem}_value", f"column_{stem}", f"column_{stem}_{place}"):
        if name.casefold() not in used and _is_valid(name, rule):
            return name
    return f"column_{place}_of_table"


def valid_model_name(text: str) -> str:
    """Turn the name of a table into a model name that is valid in Dagster and MLflow."""
    name = _in_ascii(text)
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def _is_valid(name: str, rule: TypeAdapter[Any]) -> bool:
    try:
        rule.validate_python(name)
    except ValidationError:
        return False
    return True


def _in_ascii(text: str) -> str:
    """Spell non-ASCII letters by the last word of their Unicode names (`나이`: nai), else `_`."""
    letters = []
    for letter in unicodedata.normalize("NFC", text):
        # ß and ligatures decompose only in lower case.
        parts = (unicodedata.normalize("NFKD", variant) for variant in (letter, letter.casefold()))
        plain = next(
            filter(None, (variant.encode("ascii", "ignore").decode() for variant in parts)), ""
        )
        spelled = _SPELLED.search(unicodedata.name(letter, ""))
        letters.append(plain or (spelled[1].lower() if spelled else "_"))
    name = re.sub(r"\W", "_", "".join(letters), flags=re.ASCII)
    return re.sub(r"_+", "_", name).strip("_")[:_LONGEST].rstrip("_")
