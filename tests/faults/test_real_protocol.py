"""The protocol as a state machine over real processes, whose steps Hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.faults.real_protocol import BROKEN, GATEWAYS, VERSIONS, RealProtocol, run_real_protocol
from tests.faults.scale import report, scale

_LEAST_STEPS: Final = scale(20, 2_000)
Step = Callable[[RealProtocol], None]

gateways = st.integers(0, GATEWAYS - 1)
versions = st.integers(1, VERSIONS)
aliases = st.sampled_from(["A", "A", "B"])
named = st.none() | versions


def _step(
    method: Callable[..., None], **drawn: st.SearchStrategy[object]
) -> st.SearchStrategy[Step]:
    return st.fixed_dictionaries(drawn).map(lambda found: partial(method, **found))


_RELOAD: Final = _step(
    RealProtocol.reload,
    number=gateways,
    alias=aliases,
    version=named,
    mode=st.sampled_from([None, "ssot", "pinned"]),
    unpin=st.booleans(),
)
_TRAFFIC: Final = _step(
    RealProtocol.set_traffic,
    number=gateways,
    strategy=st.sampled_from(["off", "split", "mirror"]),
    percent=st.sampled_from([1, 50, 100]),
)
_LOAD: Final = _step(RealProtocol.load, version=st.integers(1, BROKEN))
_REDIS: Final = _step(RealProtocol.turn_redis, loses=st.booleans())
_GATEWAY: Final = _step(RealProtocol.turn_gateway, number=gateways)
STEPS: Final = (
    *(_TRAFFIC, _TRAFFIC, _LOAD, _LOAD, _RELOAD, _RELOAD, _RELOAD),
    *(_REDIS, _REDIS, _REDIS, _GATEWAY, _GATEWAY, _GATEWAY),
    *(_step(RealProtocol.retire), _step(RealProtocol.restart_triton)),
    *(_step(RealProtocol.roll_back, number=gateways, alias=aliases, version=named),) * 2,
    _step(RealProtocol.clear, number=gateways),
    *(_step(RealProtocol.begin_release, number=gateways, version=versions),) * 2,
    _step(RealProtocol.stop_release, number=gateways),
)
"""Those that are to be seen often come several times."""


class RealMachine(RuleBasedStateMachine):
    """One rule for all steps: Hypothesis leaves out most rules of a run, and here are few runs."""

    protocol: ClassVar[RealProtocol]

    def __init__(self) -> None:
        super().__init__()
        self.protocol.reset()

    @rule(step=st.sampled_from(STEPS).flatmap(lambda one: one))
    def make(self, step: Step) -> None:
        step(self.protocol)
        self.protocol.check()


def _machine(protocol: RealProtocol) -> type[RuleBasedStateMachine]:
    """A machine on processes that go on running from one of its runs to the next."""
    return type("MachineOnProcesses", (RealMachine,), {"protocol": protocol})


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProtocol]:
    with run_real_protocol(tmp_path_factory.mktemp("protocol")) as running:
        yield running


@pytest.mark.needs("redis-server")
def test_no_step_of_real_processes_breaks_an_invariant(protocol: RealProtocol) -> None:
    protocol.restart_triton()  # whatever is chosen
    protocol.check()
    run_state_machine_as_test(
        _machine(protocol),
        settings=settings(
            max_examples=scale(2, 120),
            stateful_step_count=scale(10, 25),
            derandomize=True,
            database=None,
            deadline=None,
            # No shrinking: the processes are not in the state that the failing run began with.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    report(
        "real protocol",
        steps=protocol.steps,
        accepted_changes=protocol.accepted_changes,
        requests=sum(one.count for one in protocol.askers),
        failed=0,
        longest_answer_ms=round(max(one.longest for one in protocol.askers) * 1e3, 1),
    )
    assert protocol.steps >= _LEAST_STEPS
    assert protocol.accepted_changes > 0
