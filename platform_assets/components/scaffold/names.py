"""Names that the platform takes, out of the headers of a table; and what headers hint at."""

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
    """Return the words of a header, in lower case: of `patientID` they are patient and id."""
    return frozenset(word.lower() for word in _WORDS.findall(header))


def names_key(header: str, table: str) -> bool:
    """Whether a header reads like that of an identifier, or like a row of `table`."""
    found = words(header)
    thing = table.casefold()
    things = {thing, thing.removesuffix("s")} if len(thing) > 2 else set()
    is_thing = bool(things & {header.casefold()})
    return bool(found & _KEYS) or is_thing or any(one in header for one in _KOREAN_KEYS)


def names_counter(header: str) -> bool:
    """Whether a header reads like that of a running number."""
    return bool(words(header) & _COUNTERS)


def names_time(header: str) -> bool:
    """Whether a header reads like that of the time at which a row was true."""
    return bool(words(header) & _TIMES) or any(one in header for one in _KOREAN_TIMES)


def names_other_time(header: str) -> bool:
    """Whether a header reads like that of a time long before or after: a birthday, an expiry."""
    return bool(words(header) & _OTHER_TIMES) or any(one in header for one in _KOREAN_OTHER_TIMES)


def identifier(header: str, place: int, taken: Iterable[str], rule: TypeAdapter[Any]) -> str:
    """Return the header itself, or a name near it that `rule` takes and no other column has.

    Args:
        header: of the column.
        place: of the column, from 1; it stands in the name where nothing can be spelled.
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
    """Return the name of a table as far as Dagster and MLflow take it for a model."""
    name = _in_ascii(text)
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def _is_valid(name: str, rule: TypeAdapter[Any]) -> bool:
    try:
        rule.validate_python(name)
    except ValidationError:
        return False
    return True


def _in_ascii(text: str) -> str:
    """Spell letters of other scripts as their names in Unicode end, `나이` as nai; else `_`."""
    letters = []
    for letter in unicodedata.normalize("NFC", text):
        # ß and ligatures fall apart in lower case only.
        parts = (unicodedata.normalize("NFKD", one) for one in (letter, letter.casefold()))
        plain = next(filter(None, (one.encode("ascii", "ignore").decode() for one in parts)), "")
        spelled = _SPELLED.search(unicodedata.name(letter, ""))
        letters.append(plain or (spelled[1].lower() if spelled else "_"))
    words = re.sub(r"\W", "_", "".join(letters), flags=re.ASCII)
    return re.sub(r"_+", "_", words).strip("_")[:_LONGEST].rstrip("_")
