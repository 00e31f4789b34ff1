"""Requests that two readers may cut in different places: what each hides is `GET /smuggled`."""

from __future__ import annotations

from typing import Final

HIDDEN: Final = b"GET /smuggled HTTP/1.1\r\nHost: gateway\r\nX-Request-Id: smuggled\r\n\r\n"
HTTP_2: Final = "the preface of HTTP/2"
_GOOD: Final = b'{"data":[[1.5,2.5]]}'
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_GOOD), _GOOD)
_LAST: Final = b"0\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked"


def _post(
    *headers: bytes, body: bytes, path: bytes = b"/predict", line_end: bytes = b"\r\n"
) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: gateway", b"Content-Type: application/json"]
    return line_end.join([*lines, *headers, b"", b""]) + body


def _length(size: int | bytes) -> bytes:
    return b"Content-Length: %b" % (size if isinstance(size, bytes) else b"%d" % size)


def _with_length(field: bytes) -> bytes:
    """A body of the right length, then the hidden request; the length is written in some way."""
    return _post(field, body=_GOOD + HIDDEN)


def _with_coding(*fields: bytes) -> bytes:
    """By Content-Length the hidden request is part of the body, by the chunks it is not."""
    body = _CHUNK + _LAST + HIDDEN
    return _post(*fields, _length(len(body)), body=body)


def _with_chunks(body: bytes, *headers: bytes) -> bytes:
    return _post(_CHUNKED, *headers, body=body + HIDDEN)


_SIZE: Final = b"%d" % len(_GOOD)
_HEX: Final = b"%x" % len(_GOOD)

LENGTHS: Final = {
    "twice, the same": _length(len(_GOOD)) + b"\r\n" + _length(len(_GOOD)),
    "twice, different": _length(len(_GOOD)) + b"\r\n" + _length(0),
    "a list": _length(_SIZE + b", " + _SIZE),
    "a list of different ones": _length(_SIZE + b",0"),
    "with a sign": _length(b"+" + _SIZE),
    "negative": _length(b"-1"),
    "hexadecimal": _length(b"0x" + _HEX),
    "with leading zeros": _length(b"00" + _SIZE),
    "with a fraction": _length(_SIZE + b".0"),
    "with a space inside": _length(b"2 0"),
    "with a form feed": _length(_SIZE + b"\x0c"),
    "with NUL": _length(_SIZE + b"\x00"),
    "empty": _length(b""),
    "beyond 64 bits": _length(b"18446744073709551636"),
    "folded": b"Content-Length:\r\n " + _SIZE,
    "before a colon with a space": b"Content-Length : " + _SIZE,
    "after a bare LF": b"X-A: b\nContent-Length: " + _SIZE,
    "after a bare CR": b"X-A: b\rContent-Length: " + _SIZE,
    "named hop by hop": _length(len(_GOOD)) + b"\r\nConnection: keep-alive, Content-Length",
    "absent": b"X-A: b",
}
"""Ways to write a Content-Length."""

CODINGS: Final = {
    "chunked beside a length": (_CHUNKED,),
    "in capitals": (b"TRANSFER-ENCODING: CHUNKED",),
    "unknown": (b"Transfer-Encoding: xchunked",),
    "chunked and unknown": (_CHUNKED, b"Transfer-Encoding: x"),
    "unknown and chunked": (b"Transfer-Encoding: x", _CHUNKED),
    "twice": (_CHUNKED, _CHUNKED),
    "chunked is not the last": (b"Transfer-Encoding: chunked, identity",),
    "identity and chunked": (b"Transfer-Encoding: identity, chunked",),
    "before a colon with a space": (b"Transfer-Encoding : chunked",),
    "after a tab": (b"Transfer-Encoding:\tchunked",),
    "after a vertical tab": (b"Transfer-Encoding: \x0bchunked",),
    "before NUL": (b"Transfer-Encoding: chunked\x00",),
    "folded": (b"Transfer-Encoding:\r\n chunked",),
    "folded name": (b"X-A: b\r\n Transfer-Encoding: chunked",),
    "quoted": (b'Transfer-Encoding: "chunked"',),
    "with a comma": (b"Transfer-Encoding: ,chunked",),
    "after a bare LF": (b"X-A: b\nTransfer-Encoding: chunked",),
    "after a bare CR": (b"X-A: b\rTransfer-Encoding: chunked",),
    "with an underscore": (b"Transfer_Encoding: chunked",),
    "named hop by hop": (_CHUNKED, b"Connection: Transfer-Encoding"),
    "behind a byte of no token": (b"\xffTransfer-Encoding: chunked",),
}
"""Ways to write a Transfer-Encoding, next to a Content-Length."""

CHUNKS: Final = {
    "an extension": _HEX + b";a=b\r\n" + _GOOD + b"\r\n" + _LAST,
    "an extension with a bare LF": _HEX + b";a\nb\r\n" + _GOOD + b"\r\n" + _LAST,
    "an extension that looks like an end": _HEX + b";\r\r\n" + _GOOD + b"\r\n" + _LAST,
    "a long extension": _HEX + b";" + b"a" * 20_000 + b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "sizes with a bare LF": _HEX + b"\n" + _GOOD + b"\n0\n\n",
    "a size with a prefix": b"0x" + _HEX + b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "a size with a sign": b"+" + _HEX + b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "a negative size": b"-" + _HEX + b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "a size with a space": _HEX + b" \r\n" + _GOOD + b"\r\n" + _LAST,
    "a size beyond 64 bits": b"1" + b"0" * 15 + _HEX + b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "an empty size": b"\r\n" + _GOOD + b"\r\n" + _LAST,
    "no end of a chunk": _HEX + b"\r\n" + _GOOD + _LAST,
    "another end of a chunk": _HEX + b"\r\n" + _GOOD + b"XX" + _LAST,
    "too long a chunk": b"5\r\n" + _GOOD + b"\r\n" + _LAST,
    "a last chunk of many zeros": _CHUNK + b"0000000000\r\n\r\n",
    "a trailer": _CHUNK + b"0\r\nX-A: b\r\n\r\n",
    "a trailer with a length": _CHUNK + b"0\r\nContent-Length: 90\r\n\r\n",
    "a trailer with a coding": _CHUNK + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer with a bare LF": _CHUNK + b"0\r\nX-A: b\n\r\n",
    "a trailer with a request": _CHUNK + b"0\r\n" + HIDDEN[:22] + b"\r\n\r\n",
}
"""Bodies in chunks."""

OTHERS: Final = {
    "an expectation": _post(_length(len(_GOOD)), b"Expect: 100-continue", body=_GOOD + HIDDEN),
    "an expectation and no body": _post(_length(0), b"Expect: 100-continue", body=HIDDEN),
    "an offer of h2c": _post(
        _length(len(_GOOD)),
        *(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA"),
        body=_GOOD + HIDDEN,
    ),
    "an offer of websockets": b"GET /health HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n" + HIDDEN,
    HTTP_2: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a GET with a body": b"GET /health HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n%b"
    % (len(HIDDEN), HIDDEN),
    "a DELETE with a body": b"DELETE /health HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%b"
    % (len(HIDDEN), HIDDEN),
    "a CONNECT": b"CONNECT gateway:80 HTTP/1.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "HTTP/1.0 in chunks": _with_chunks(_CHUNK + _LAST).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "HTTP/0.9": b"GET /health\r\n\r\n" + HIDDEN,
    "HTTP/1.10": b"GET /health HTTP/1.10\r\nHost: gateway\r\n\r\n" + HIDDEN[:20],
    "a space in the target": b"GET /health HTTP/1.1\r\nX: y HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "an absolute target": b"GET http://other/health HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "line ends in the target": b"GET /health?%0d%0aX:%20y%0d%0a HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "bare LF all over": _post(_length(len(_GOOD)), body=_GOOD, line_end=b"\n"),
    "an empty name": _post(b": x", _length(len(_GOOD)), body=_GOOD),
    "two hosts": _post(b"Host: other", _length(len(_GOOD)), body=_GOOD),
    "line ends before a request": b"\r\n\r\n" + _post(_length(len(_GOOD)), body=_GOOD),
    "a control call in a body": _post(
        _length(4),
        body=b"null" + b"POST /variant/A/rollback HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n",
    ),
}
"""What fits nowhere else."""

CORPUS: Final[dict[str, bytes]] = {
    **{f"length: {name}": _with_length(field) for name, field in LENGTHS.items()},
    **{f"coding: {name}": _with_coding(*fields) for name, fields in CODINGS.items()},
    **{f"chunks: {name}": _with_chunks(body) for name, body in CHUNKS.items()},
    **{
        f"both: {name}": _post(*fields, _length(4), body=b"5e\r\n" + HIDDEN + b"\r\n0\r\n\r\n")
        for name, fields in CODINGS.items()
    },
    **OTHERS,
}
"""All of them, by name."""
