"""Lines of CSV files: whatever their ends, their cells are those that Python's reader finds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from platform_assets.components.scaffold.profile import ModelRequest
from platform_assets.components.scaffold.table import profile_table
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.reader import Progress
from platform_assets.resources.source import SourceError
from serving_gateway.contract import DType

ROWS = 3_000
"""More than DuckDB reads before it hands out the first."""

LF = "a,b\n" + "1,2\n" * ROWS
CRLF = LF.replace("\n", "\r\n")
NUMBERED = "".join(f"{row},x{row}\n" for row in range(ROWS))

FILES = {
    "of Unix": LF,
    "of Windows": CRLF,
    "of the first Macs": LF.replace("\n", "\r"),
    "written twice by Windows": "a,b\r\r\n" + NUMBERED.replace("\n", "\r\r\n"),
    "Windows at the end": LF + "3,4\r\n" * 3,
    "Unix at the end": CRLF + "3,4\n" * 3,
    "Unix at the beginning": "a,b\r\n3,4\n" + "1,2\r\n" * ROWS,
    "break in a cell at the end": LF + '"p\r\nq",5\n',
    "long at the end": LF + "x" * 3_000_000 + ",5\n",
    "Unix in a header of Windows": '"a\nz",a,b\r\n' + "0,1,2\r\n" * ROWS,
    "Windows in a header of Unix": '"a\r\nz",a,b\n' + "0,1,2\n" * ROWS,
    "an old Mac in a header of Unix": '"a\rz",a,b\n' + "0,1,2\n" * ROWS,
    "blank before a header with a break": '\n\n"a\rz",a,b\n0,1,2\n0,3,4\n',
    "blank between rows": "a,b\r\n1,2\r\n\r\n\r\n3,4\r\n",
    "quoted and empty": 'a,b\n"",2\n"1 ""x"" y",\n' + NUMBERED + '"q",1\r\n',
}


def read(file: Path) -> list[tuple[str, ...]]:
    columns = [Column(name, DType.BYTES) for name in ("a", "b")]
    table = FileReader(str(file), str(file), columns, None, None).read(Progress()).table
    return [tuple(cell or "" for cell in row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_cells_are_those_of_python_s_reader(text: str, tmp_path: Path) -> None:
    csv.field_size_limit(4_000_000)
    header, *rows = filter(None, csv.reader(io.StringIO(text, newline="")))
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    places = header.index("a"), header.index("b")
    assert read(file) == [tuple(row[place] for place in places) for row in rows]
    profile = profile_table(ModelRequest(str(file), "b"))
    assert (profile.rows, profile.columns[-1].texts) == (
        len(rows),
        sum(bool(row[places[1]]) for row in rows),
    )


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("1\n", "has 1 value, not 2"),
        ("1,2,3\n", "has 3 values, not 2"),
        ('1,"2\n3,4\n', "has a quotation mark that is not closed"),
        ('1,"2"x\n', "has a quotation mark that is not closed"),
        ("caf\udce9,1\n", "'caf.*' is not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("before", [3, ROWS])
def test_row_that_is_not_one_is_named_wherever_it_stands(
    end: str, reason: str, before: int, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    text = "a,b\n" + "1,2\n" * before + end
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceError, match=rf"row {before + 1} \(line \d+\).*{reason}"):
        read(file)
