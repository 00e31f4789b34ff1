"""What a hostile client sends is refused, and costs the process next to no memory."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.scale import report
from tests.support.footprint import MIB, Memory
from tests.support.gateway_harness import RunningGateway

_MOST_MIB: Final = 50.0
_INFER: Final = f"/v2/models/{DEFAULT_MODEL}/infer"
_PATHS: Final = (
    *("/predict", _INFER, "/variant/A/reload", "/traffic"),
    *("/outcomes", "/release", "/release/advance", "/release/stop"),
)
_TENSOR: Final = b'{"inputs":[{"name":"features","shape":%b,"datatype":"FP32","data":%b}]}'


def _chunks(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Abuse:
    """A request; `announced` bytes are promised where they are not those of the body."""

    path: str
    body: bytes
    headers: tuple[str, ...] = ()
    times: int = 1
    """How often the body is sent, one after the other."""
    method: str = "POST"
    announced: int | None = None

    def send(self, address: tuple[str, int], token: str) -> int:
        """The status of what it gets; 0 for none."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "host: 127.0.0.1", *self.headers]
        lines += ["content-type: application/json", f"authorization: Bearer {token}"]
        if not any("transfer-encoding" in one for one in self.headers):
            size = len(self.body) * self.times if self.announced is None else self.announced
            lines.append(f"content-length: {size}")
        found = b""
        with socket.create_connection(address, 20) as client:
            with contextlib.suppress(OSError):  # it may end before all is sent
                client.sendall("\r\n".join([*lines, "", ""]).encode())
                for _ in range(self.times):
                    client.sendall(self.body)
            with contextlib.suppress(OSError):
                while b"\r\n\r\n" not in found and (part := client.recv(65_536)):
                    found += part
        return int(found[9:12] or 0)


def _deep(path: str, opening: bytes, levels: int, method: str = "POST") -> Abuse:
    return Abuse(path, opening * levels, method=method)


def _cases() -> Iterator[tuple[str, Abuse]]:
    chunked = ("transfer-encoding: chunked",)
    bomb = gzip.compress(b"[" * 64 * MIB)[:60_000]
    assert len(bomb) == 60_000
    for path in _PATHS:
        method = "PUT" if path == "/traffic" else "POST"
        for opening, levels in ((b"[", 60_000), (b'{"data":', 8_000)):
            yield f"{levels} levels, {path}", _deep(path, opening, levels, method)
        yield f"a bomb, {path}", Abuse(path, bomb, ("content-encoding: gzip",), method=method)
        yield f"100 MB, {path}", Abuse(path, b"1" * MIB, times=100, method=method)
        part = _chunks(b"1" * MIB, MIB).removesuffix(b"0\r\n\r\n")
        yield (
            f"100 MB in chunks, {path}",
            Abuse(path, part, chunked, times=100, method=method),
        )
        yield f"2**62 bytes, {path}", Abuse(path, b"{", announced=2**62, method=method)
        yield f"2**65 bytes, {path}", Abuse(path, b"{", announced=2**65, method=method)
    rows = b"[" + b",".join([b"[1,2,3,4]"] * 100_000) + b"]"
    yield "1e6 rows", Abuse("/predict", b'{"data":[' + b"[1,2,3,4]," * 1_000_000 + b"[1]]}")
    yield "1e5 rows", Abuse("/predict", b'{"data":' + rows + b"}")
    yield "1e5 rows of nothing", Abuse("/predict", b'{"data":[' + b"[]," * 100_000 + b"[]]}")
    yield "1e5 ids", Abuse("/predict", b'{"entity_ids":[' + b"1," * 100_000 + b"1]}")
    yield (
        "1e5 keys",
        Abuse("/predict", b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}"),
    )
    yield "ragged rows", Abuse("/predict", b'{"data":[[1,2,3,4],[1,2],[]]}')
    yield "NaN", Abuse("/predict", b'{"data":[[1,2,3,NaN]]}')
    yield "infinity", Abuse("/predict", b'{"data":[[1,2,3,1e999]]}')
    yield "a long number", Abuse("/predict", b'{"data":[[1,2,3,' + b"9" * 900_000 + b"]]}")
    yield "a long exponent", Abuse("/predict", b'{"data":[[1,2,3,1e' + b"9" * 900_000 + b"]]}")
    yield "a huge shape", Abuse(_INFER, _TENSOR % (b"[9223372036854775807,4]", b"[1]"))
    yield "a shape that overflows", Abuse(_INFER, _TENSOR % (b"[4294967296,4294967296]", b"[1]"))
    yield "a negative shape", Abuse(_INFER, _TENSOR % (b"[-1,-4]", b"[1,2,3,4]"))
    yield "1e5 dimensions", Abuse(_INFER, _TENSOR % (b"[" + b"1," * 100_000 + b"4]", b"[1]"))
    small = b'{"data":[[1,2]]}' + b" " * 400_000
    yield "chunks of one byte", Abuse("/predict", _chunks(small, 1), chunked)
    yield "10,000 headers", Abuse("/predict", b"{}", tuple(f"x-{n}: y" for n in range(10_000)))


def test_abuse_is_refused_without_memory_and_answers_go_on(gateway: RunningGateway) -> None:
    cases = dict(_cases())
    address = urlsplit(gateway.url)
    assert address.hostname is not None
    target = address.hostname, address.port or 80
    for _ in range(50):  # what the first requests load is not abuse
        gateway.predict()
    process = gateway.process.server
    before, memory, slowest = process.memory_info().rss, Memory(process), 0.0
    refused = {}
    with memory.watched():
        for name, abuse in cases.items():
            refused[name] = abuse.send(target, gateway.control_token)
            began = time.monotonic()
            assert gateway.predict().status_code == 200, name
            slowest = max(slowest, time.monotonic() - began)
    grown = (memory.highest - before) / MIB
    report(
        "abuse",
        requests=len(cases) * 2,
        failed=0,
        longest_answer_ms=round(slowest * 1e3, 1),
        grown_mib=round(grown, 1),
    )
    assert {name: status for name, status in refused.items() if not 400 <= status < 500} == {}
    assert grown < _MOST_MIB
    assert "because of a bug" not in gateway.process.log.read_text()
    assert gateway.models()["effective"]["A"]["version"] == 1
