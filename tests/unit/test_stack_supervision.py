"""The order in which the services of the stack end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from platform_assets.local_stack.processes import services
from platform_assets.local_stack.settings import stack_settings
from platform_assets.local_stack.supervision import Supervisor


def test_stop_ends_dagster_before_the_servers_that_its_runs_need(tmp_path: Path) -> None:
    settings = stack_settings({}, root=tmp_path)
    supervisor = Supervisor(settings)
    ended: list[set[str]] = [set()]

    def keeper(service: object, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            service=service,
            terminate=lambda: ended[-1].add(name),
            join_or_kill=lambda: ended.append(set()) if ended[-1] else None,
        )

    supervisor._restarters = [keeper(one, one.name) for one in services(settings)]  # type: ignore[misc]
    supervisor.stop()
    assert ended == [
        {"dagster-webserver", "dagster-daemon"},
        {"gateway", "dagster-code-server"},
        {"triton", "mlflow"},
        set(),
    ]
