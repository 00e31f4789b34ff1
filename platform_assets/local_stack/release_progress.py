"""Follow a version after its chain if the model file releases it in steps."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Final
from urllib.error import HTTPError

from rich.console import Console
from rich.markup import escape

from platform_assets.local_stack import report
from platform_assets.local_stack.http import get
from platform_assets.local_stack.settings import StackError, StackSettings
from serving_gateway.contract import ACTIVE, Release, ReleaseReport

_POLL_S: Final = 0.5
_BEGIN_S: Final = 60.0
_FIRST_S: Final = 600.0


def present_release(settings: StackSettings, model_name: str) -> Release | None:
    """Return the current or the last release of a model; None if it never had one."""
    current = release_report(settings, model_name)
    return None if current is None else current.release


def release_report(settings: StackSettings, model_name: str) -> ReleaseReport | None:
    """Return the gateway's report of a model's release; None if the model was never served."""
    url = f"{settings.gateway_url}/models/{model_name}/release"
    try:
        return get(url, ReleaseReport)
    except HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise StackError(f"the gateway does not show the release: {error}") from error
    except (OSError, ValueError) as error:
        raise StackError(f"the gateway at {url} does not answer: {error}") from error


def await_first_version(settings: StackSettings, model_name: str) -> None:
    """Wait until the first version, which has nothing to be compared with, is in production.

    Raises:
        StackError: it is not in production after ten minutes.
    """
    deadline = time.monotonic() + _FIRST_S
    while report.production(settings, model_name).version is None:
        if time.monotonic() >= deadline:
            raise StackError(
                f"the first version of {model_name} is not in production after {_FIRST_S:.0f} s: "
                f"the sensor release_pilot launches {model_name}_promotion, see "
                f"{settings.dagster_url}/automation and {settings.dagster_url}/runs"
            )
        time.sleep(_POLL_S)


def await_release(
    settings: StackSettings, model_name: str, before: Release | None
) -> Release | None:
    """Wait for the release that follows a chain; return it, or the one that is active meanwhile.

    `before` is the release that the gateway showed before the chain. If the chain led to no release
    within a minute, the result is what the gateway shows then.
    """
    deadline = time.monotonic() + _BEGIN_S
    while True:
        release = present_release(settings, model_name)
        is_new = release is not None and (before is None or release.id != before.id)
        is_active = release is not None and release.state in ACTIVE
        if is_new or is_active or time.monotonic() >= deadline:
            return release
        time.sleep(_POLL_S)


def print_release(
    settings: StackSettings, console: Console, model_name: str, release: Release | None
) -> None:
    """Print the state of the release, and where to follow it."""
    from platform_assets.release.record import describe_place  # imports Dagster

    if release is None or release.state not in ACTIVE:
        console.print("No release has begun; the sensor release_pilot says why:")
        console.print(f"  {settings.dagster_url}/automation", markup=False, highlight=False)
        return
    place = escape(describe_place(release))
    console.print(f"Release of version {release.version}: {place}. It goes on by itself; see")
    console.print(f"  {settings.gateway_url}/?model={model_name}", markup=False, highlight=False)
    asset = f"{settings.dagster_url}/assets/{model_name}/release"
    console.print(f"  {asset}", markup=False, highlight=False)
    console.print("To approve or stop it on the gateway's page, use the control token in")
    console.print(f"  {settings.operator_token}", markup=False, highlight=False)
