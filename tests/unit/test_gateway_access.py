"""Tokens, keys, hosts and origins: the rules alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from serving_gateway.errors import Forbidden, GatewayError, MalformedRequest, Unauthenticated
from serving_gateway.http.control_token import configured_tokens, read_or_create
from serving_gateway.http.security import Access, ControlTokens, SourceRules, check_one_host
from serving_gateway.settings import Settings

ALICE, BOB, KEY = "alice-0123456789ab", "bob-0123456789abcd", "key-0123456789abcdef"


def access(
    *, keys: tuple[str, ...] = (), hosts: tuple[str, ...] = (), cors: tuple[str, ...] = ()
) -> Access:
    tokens = ControlTokens([("alice", ALICE), ("bob", BOB)])
    return Access(tokens, [SecretStr(key) for key in keys], SourceRules("10.0.0.1", hosts, cors))


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in named.items()]


def test_control_call_is_recorded_by_the_name_of_its_token() -> None:
    tokens = access().tokens
    assert tokens.authenticate(headers(authorization=f"Bearer {ALICE}")) == "token:alice"
    assert tokens.authenticate(headers(authorization=f"bearer {BOB} ")) == "token:bob"
    for given in ("", "Bearer", f"Bearer {ALICE[:-1]}", f"Basic {ALICE}", f"Bearer {ALICE}2", "ü"):
        with pytest.raises(Unauthenticated, match="Nothing was changed"):
            tokens.authenticate(headers(authorization=given))


def test_settings_read_tokens_by_name_without_trailing_newline() -> None:
    settings = Settings(
        control_token=SecretStr("default-0123456789\n"),
        control_tokens=f"alice:{ALICE}, alice:{BOB}\n",  # type: ignore[arg-type]
    )
    tokens = configured_tokens(settings)
    for given, name in (("default-0123456789", "default"), (ALICE, "alice"), (BOB, "alice")):
        assert tokens.name_of(headers(authorization=f"Bearer {given}")) == name
    assert ALICE not in repr(settings)


@pytest.mark.parametrize(
    "value", [ALICE, f":{ALICE}", f"a b:{ALICE}", "alice:short", f"a:{ALICE},"]
)
def test_settings_refuse_token_without_name_or_length_and_never_repeat_it(value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(control_tokens=value)  # type: ignore[arg-type]
    assert ALICE not in str(caught.value)
    assert "short" not in str(caught.value)


def test_processes_that_start_at_once_agree_on_one_generated_token(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control-token"
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(lambda _: read_or_create(path), range(64)))
    assert len(tokens) == 1
    assert len(tokens.pop()) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_generated_token_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control-token").write_text("abc\n")
    with pytest.raises(ValueError, match="holds 3 characters"):
        read_or_create(tmp_path / "control-token")


@pytest.mark.parametrize(
    ("host", "known"),
    [
        *((name, True) for name in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8080")),
        *((name, True) for name in ("10.0.0.1:8080", "192.0.2.7", "gw.example.com:443")),
        *((name, False) for name in ("evil.example", "localhost.evil.example", "", "[")),
        ("127.0.0.1.evil.example:8080", False),
    ],
)
def test_client_data_is_shown_under_known_hosts_only(host: str, known: bool) -> None:
    rules = access(hosts=("gw.example.com",))
    if known:
        rules.admit_client_data(headers(host=host))
    else:
        with pytest.raises(Forbidden, match="GATEWAY_ALLOWED_HOSTS"):
            rules.admit_client_data(headers(host=host))
    # A page that rebinds a name does not know the token.
    rules.admit_client_data(headers(host=host, authorization=f"Bearer {ALICE}"))
    access(hosts=("*",)).admit_client_data(headers(host=host))


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://localhost:8080", True),
        ("https://localhost:8080", True),  # a proxy ends TLS
        ("http://localhost:5000", False),
        ("http://localhost", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_page_of_another_origin_changes_nothing_even_with_a_token(origin: str, own: bool) -> None:
    given = headers(host="localhost:8080", origin=origin, authorization=f"Bearer {ALICE}")
    for admit in (access().admit_control, access().admit_status, access().admit_prediction):
        if own:
            admit(given)
        else:
            with pytest.raises(Forbidden):
                admit(given)


def test_configured_origins_may_predict_and_nothing_else() -> None:
    rules = access(cors=("https://app.example.com",))
    given = headers(host="gw", origin="https://app.example.com", authorization=f"Bearer {ALICE}")
    rules.admit_prediction(given)
    for admit in (rules.admit_control, rules.admit_status, rules.admit_client_data):
        with pytest.raises(Forbidden):
            admit(given)


def test_with_keys_status_and_predictions_need_a_key_or_token() -> None:
    rules = access(keys=(KEY,))
    for admit in (rules.admit_prediction, rules.admit_status, rules.admit_client_data):
        for given in (
            headers(host="localhost", x_api_key=KEY),
            headers(host="localhost", authorization=f"Bearer {KEY}"),
            headers(host="localhost", authorization=f"Bearer {ALICE}"),
        ):
            admit(given)
        with pytest.raises(Unauthenticated):
            admit(headers(host="localhost", x_api_key=KEY[:-1]))
    with pytest.raises(Unauthenticated):  # a key changes nothing
        rules.admit_control(headers(host="localhost", authorization=f"Bearer {KEY}"))


@pytest.mark.parametrize(
    ("hosts", "version", "refused"),
    [(1, "1.1", False), (2, "1.1", True), (0, "1.1", True), (0, "1.0", False), (2, "1.0", True)],
)
def test_request_has_exactly_one_host(hosts: int, version: str, refused: bool) -> None:
    found: GatewayError | None = None
    try:
        check_one_host([(b"host", b"g")] * hosts, version)
    except MalformedRequest as error:
        found = error
    assert (found is not None) is refused
