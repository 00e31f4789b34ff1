"""Tokens, keys, hosts and origins: the rules alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from serving_gateway.errors import Forbidden, Unauthenticated
from serving_gateway.http.descriptions import API_KEY
from serving_gateway.http.security import Access, Need
from serving_gateway.secret_files import read_or_create
from serving_gateway.settings import Settings

ALICE, BOB, KEY = "alice-0123456789ab", "bob-0123456789abcd", "key-0123456789abcdef"


def access(
    *, keys: tuple[str, ...] = (), hosts: tuple[str, ...] = (), cors: tuple[str, ...] = ()
) -> Access:
    return Access(
        Settings(
            host="10.0.0.1",
            control_tokens=f"alice:{ALICE},bob:{BOB}",  # type: ignore[arg-type]
            api_keys=keys,  # type: ignore[arg-type]
            allowed_hosts=hosts,
            cors_origins=cors,
        )
    )


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in named.items()]


def test_control_call_is_recorded_by_the_name_of_its_token() -> None:
    rules = access()
    for given, name in ((f"Bearer {ALICE}", "alice"), (f"bearer {BOB} ", "bob")):
        assert rules.admit(Need.CONTROL, headers(authorization=given)) == name
    for given in ("", "Bearer", f"Bearer {ALICE[:-1]}", f"Basic {ALICE}", f"Bearer {ALICE}2", "ü"):
        with pytest.raises(Unauthenticated, match="Nothing was changed"):
            rules.admit(Need.CONTROL, headers(authorization=given))


def test_settings_read_tokens_by_name_without_trailing_newline() -> None:
    settings = Settings(
        control_token=SecretStr("default-0123456789\n"),
        control_tokens=f"alice:{ALICE}, alice:{BOB}\n",  # type: ignore[arg-type]
    )
    rules = Access(settings)
    for given, name in (("default-0123456789", "default"), (ALICE, "alice"), (BOB, "alice")):
        assert rules.token_name(headers(authorization=f"Bearer {given}")) == name
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
        rules.admit(Need.CLIENT_DATA, headers(host=host))
    else:
        with pytest.raises(Forbidden, match="GATEWAY_ALLOWED_HOSTS"):
            rules.admit(Need.CLIENT_DATA, headers(host=host))
    # A page that rebinds a name does not know the token.
    rules.admit(Need.CLIENT_DATA, headers(host=host, authorization=f"Bearer {ALICE}"))
    access(hosts=("*",)).admit(Need.CLIENT_DATA, headers(host=host))


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
    for need in (Need.CONTROL, Need.STATUS, Need.PREDICTION):
        if own:
            access().admit(need, given)
        else:
            with pytest.raises(Forbidden):
                access().admit(need, given)


def test_configured_origins_may_predict_and_nothing_else() -> None:
    rules = access(cors=("https://app.example.com",))
    given = headers(host="gw", origin="https://app.example.com", authorization=f"Bearer {ALICE}")
    rules.admit(Need.PREDICTION, given)
    for need in (Need.CONTROL, Need.STATUS, Need.OUTCOMES, Need.CLIENT_DATA):
        with pytest.raises(Forbidden):
            rules.admit(need, given)


def test_with_keys_status_and_predictions_need_a_key_or_token() -> None:
    rules = access(keys=(KEY,))
    for need in (Need.PREDICTION, Need.STATUS, Need.OUTCOMES, Need.CLIENT_DATA):
        for given in (
            headers(host="localhost", x_api_key=KEY),
            headers(host="localhost", authorization=f"Bearer {KEY}"),
            headers(host="localhost", authorization=f"Bearer {ALICE}"),
        ):
            rules.admit(need, given)
        with pytest.raises(Unauthenticated):
            rules.admit(need, headers(host="localhost", x_api_key=KEY[:-1]))
    with pytest.raises(Unauthenticated):  # a key changes nothing
        rules.admit(Need.CONTROL, headers(host="localhost", authorization=f"Bearer {KEY}"))


def test_control_token_is_taken_where_the_api_page_says() -> None:
    rules = access(keys=(KEY,))
    scheme: Any = API_KEY.dependency
    said = "'Authorization: Bearer' takes a key or a control token instead."
    assert scheme.model.description.endswith(said)
    for given in (KEY, ALICE):
        rules.admit(Need.STATUS, headers(authorization=f"Bearer {given}"))
    with pytest.raises(Unauthenticated):
        rules.admit(Need.STATUS, headers(x_api_key=ALICE))
