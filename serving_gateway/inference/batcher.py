"""Coalescing: concurrent requests for one version share one Triton inference.

An idle version is asked at once, so nothing waits for company. While the few inferences that
may be under way are, requests gather, and leave together as soon as one of them returns. A
merged inference that Triton refuses is repeated request by request, so that a bad row fails
its own request only.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from serving_gateway.errors import (
    ClientGone,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    Overloaded,
)
from serving_gateway.inference.codec import Answers, Codec, Tensors
from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.inference_call import InferenceCall
from serving_gateway.triton.protocol import InferenceRequests, parse_inference

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import InferenceSpan, RequestSpan

_BATCH_LIMIT: Final = re.compile(r"batch-size must be <= (\d{1,9})\b")


class Connection(Protocol):
    """The connection that a request came on."""

    disconnected: bool
    """Whether the client has left."""


class Origin:
    """Who asks, as far as that matters on the way to Triton."""

    __slots__ = ("connection", "span", "traceparent")

    def __init__(
        self,
        connection: Connection | None,
        traceparent: bytes | None,
        span: RequestSpan | None = None,
    ) -> None:
        self.connection = connection
        self.traceparent = traceparent
        """W3C trace context, valid by its form."""
        self.span = span
        """The request's own; None where nothing is traced."""


class Job:
    """One request's rows on their way to Triton and back."""

    __slots__ = ("alone", "deadline", "future", "origin", "rows", "tensors")

    def __init__(
        self,
        tensors: Tensors,
        rows: int,
        deadline: float,
        future: asyncio.Future[Answers],
        origin: Origin | None,
    ) -> None:
        self.tensors = tensors
        self.rows = rows
        self.deadline = deadline
        self.future = future
        self.origin = origin
        self.alone = False

    def given_up(self) -> bool:
        """Whether nobody wants the answer any more; where the client left, end the wait for it."""
        if self.future.done():
            return True
        origin = self.origin
        if origin is None or origin.connection is None or not origin.connection.disconnected:
            return False
        self.future.set_exception(ClientGone())
        return True


class _Flight:
    """The jobs of one inference under way."""

    __slots__ = ("inference", "jobs", "rows")

    def __init__(self, jobs: list[Job], rows: int) -> None:
        self.jobs = jobs
        self.rows = rows
        self.inference: InferenceCall | None = None


class Coalescer:
    """The queue in front of one version on one Triton.

    Args:
        triton: the server.
        model_name: the model in Triton.
        version: the version that every inference names.
        codec: packs requests and unpacks answers.
        max_rows: rows up to which requests are merged; one larger request still goes alone.
        max_in_flight: most inferences under way.
        max_queued: most requests waiting; more are refused.
        request_seconds: deadline of a request, from `submit` on.
    """

    def __init__(
        self,
        triton: TritonCluster,
        model_name: str,
        version: int,
        codec: Codec,
        *,
        max_rows: int,
        max_in_flight: int,
        max_queued: int,
        request_seconds: float,
    ) -> None:
        self.codec = codec
        self.version = version
        self.max_rows = max_rows
        self._triton = triton
        self._model_name = model_name
        self._requests = InferenceRequests(
            triton.authority, triton.prefix, model_name, version, codec
        )
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._request_seconds = request_seconds
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        self._flights: set[_Flight] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.inferences = 0
        """Inferences sent since the start; fewer than requests when they are merged."""

    def warm_up_request(self) -> bytes:
        """The HTTP request of an inference of one harmless row."""
        return self._requests.build(self.codec.warm_up_rows(), 1)

    def submit(
        self,
        tensors: Tensors,
        rows: int,
        limit_seconds: float | None = None,
        origin: Origin | None = None,
    ) -> asyncio.Future[Answers]:
        """Queue a request and send what can be sent; the future holds its answers.

        A request whose client leaves while it waits is not sent; its future raises ClientGone.

        Raises:
            Overloaded: too many requests wait already.
        """
        if len(self._queue) >= self._max_queued:
            # Those whose client has left take nobody's place.
            self._queue = deque([job for job in self._queue if not job.given_up()])
        if len(self._queue) >= self._max_queued:
            raise Overloaded(
                f"{len(self._queue)} requests wait for version {self.version} already."
            )
        loop = self._loop
        future: asyncio.Future[Answers] = loop.create_future()
        deadline = loop.time() + (limit_seconds or self._request_seconds)
        self._queue.append(Job(tensors, rows, deadline, future, origin))
        if self._timer is None or deadline < self._timer.when():
            self._arm(deadline)
        if len(self._flights) < self._max_in_flight:
            self._dispatch()
        return future

    def _dispatch(self) -> None:
        """Send inferences while jobs wait and the limit allows."""
        while self._queue and len(self._flights) < self._max_in_flight:
            flight = self._gather()
            if flight is None:
                return
            jobs = flight.jobs
            tensors = joined([job.tensors for job in jobs])
            self._flights.add(flight)
            self.inferences += 1
            span = self._span(flight)
            trace = _trace(jobs) if span is None else span.traceparent
            request = self._requests.build(tensors, flight.rows, trace)

            def done(
                result: TritonResponse | GatewayError,
                flight: _Flight = flight,
                span: InferenceSpan | None = span,
            ) -> None:
                if span is not None:
                    span.end(result if isinstance(result, GatewayError) else None)
                self._landed(flight, result)

            deadline = max(job.deadline for job in jobs)
            flight.inference = self._triton.infer(
                self._model_name, self.version, request, deadline, done
            )

    def _span(self, flight: _Flight) -> InferenceSpan | None:
        """The span of an inference about to be sent; None where nothing is traced."""
        if self._triton.tracing is None:
            return None
        origins = [job.origin for job in flight.jobs]
        spans = [one.span for one in origins if one is not None and one.span is not None]
        return self._triton.tracing.inference(self._model_name, self.version, flight.rows, spans)

    def _gather(self) -> _Flight | None:
        """Take the jobs of the next inference; those given up meanwhile are dropped."""
        queue = self._queue
        jobs: list[Job] = []
        rows = 0
        while queue:
            job = queue[0]
            if job.given_up():
                queue.popleft()
                continue
            if jobs and (job.alone or rows + job.rows > self.max_rows):
                break
            queue.popleft()
            jobs.append(job)
            rows += job.rows
            if job.alone:
                break
        return _Flight(jobs, rows) if jobs else None

    def _landed(self, flight: _Flight, result: TritonResponse | GatewayError) -> None:
        """Give each job its part of the answer, or its error, and send what waits."""
        self._flights.discard(flight)
        if isinstance(result, GatewayError):
            self._failed(flight, result)
        else:
            try:
                outputs = parse_inference(result, self.version)
                answers = self.codec.decode(outputs, flight.rows)
            except GatewayError as error:
                self._failed(flight, error)
            else:
                _deliver(flight, answers)
        if self._queue:
            self._dispatch()

    def _failed(self, flight: _Flight, error: GatewayError) -> None:
        jobs = flight.jobs
        if isinstance(error, InferenceRefused):
            limit = _BATCH_LIMIT.search(error.message)
            if limit is not None and int(limit[1]) < self.max_rows:
                self.max_rows = max(1, int(limit[1]))
            if len(jobs) > 1:
                for job in reversed(jobs):
                    job.alone = True
                    self._queue.appendleft(job)
                return
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(error)

    def _expire(self) -> None:
        """Fail what is overdue. One timer, at the earliest deadline, serves all."""
        self._timer = None
        now = self._loop.time()
        for flight in [*self._flights]:
            for job in flight.jobs:
                self._expire_job(job, now)
            if all(job.future.done() for job in flight.jobs):
                self._flights.discard(flight)
                if flight.inference is not None:
                    flight.inference.abandon(
                        overdue=all(now >= job.deadline for job in flight.jobs)
                    )
        for job in self._queue:
            self._expire_job(job, now)
        if self._queue:
            self._dispatch()
        waiting = [*self._queue, *(job for flight in self._flights for job in flight.jobs)]
        pending = [job.deadline for job in waiting if not job.future.done()]
        if pending:
            self._arm(min(pending))

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire_job(self, job: Job, now: float) -> None:
        if now >= job.deadline and not job.future.done():
            job.future.set_exception(
                DeadlineExceeded(
                    f"Triton did not answer version {self.version} in time; the request was "
                    "given up."
                )
            )


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The tensors of several requests as those of one, input by input."""
    if len(parts) == 1:
        return parts[0]
    return tuple([b"".join(columns) for columns in zip(*parts, strict=True)])


def _trace(jobs: Sequence[Job]) -> bytes | None:
    """The trace that an inference belongs to: it can be one only, so that of the first job."""
    for job in jobs:
        if job.origin is not None and job.origin.traceparent is not None:
            return job.origin.traceparent
    return None


def _deliver(flight: _Flight, answers: Answers) -> None:
    jobs = flight.jobs
    if len(jobs) == 1:
        future = jobs[0].future
        if not future.done():
            future.set_result(answers)
        return
    start = 0
    for job in jobs:
        stop = start + job.rows
        if not job.future.done():
            job.future.set_result(answers.part(start, stop))
        start = stop
