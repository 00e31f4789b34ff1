"""One version on one Triton: whether it is READY, and the way to it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serving_gateway.batching import Batch, Batcher, BatchItem, ByteBudget
from serving_gateway.contract import Signature
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from serving_gateway.inference.signatures import signature_from_metadata
from serving_gateway.inference.tensors import Tensors
from serving_gateway.inference.wire import (
    ALL_OUTPUTS,
    InferenceOutputs,
    RequestBuilder,
    ResponseReader,
    named_outputs,
)
from serving_gateway.settings import Settings
from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.inference_call import MODEL_FAILED

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import InferenceSpan, RequestSpan

log = logging.getLogger(__name__)

_SUCCESS_SECONDS: Final = 5.0
"""How recently the version must have answered for a failure to be blamed on a row."""
_BATCH_LIMIT: Final = re.compile(r"batch-size must be <= (\d{1,9})\b")
PREDICTION: Final = "prediction"
"""Key of items that want label and probabilities."""
EVERY_OUTPUT: Final = "every output"
"""Key of items that want all outputs as they are."""


class InferenceItem(BatchItem):
    """One request's tensors, a buffer per input, on their way through a version.

    An item with a `tail`, members of the request's JSON head that only it has, goes alone.
    `traceparent` is a syntactically valid W3C trace context; `span` the request's own, if traced.
    """

    __slots__ = ("offload", "span", "tail", "tensors", "traceparent")

    def __init__(self, offload: Offload) -> None:
        # Like `BatchItem.__init__`, in one call: this is made for every request.
        self.key = None
        self.is_finished = False
        self.batcher = None
        self.offload = offload
        self.tensors: Tensors = ()
        self.tail: bytes | None = None
        self.traceparent: bytes | None = None
        self.span: RequestSpan | None = None

    def carry(
        self, tensors: Tensors, rows: int, key: object, deadline: float, kept: int = 0
    ) -> None:
        """Set what is to be sent; `kept` further bytes are held for another attempt."""
        self.tensors = tensors
        self.rows = rows
        self.size = kept + (len(tensors[0]) if len(tensors) == 1 else sum(map(len, tensors)))
        self.key = key
        self.deadline = deadline
        self.is_finished = False

    def encode(self, outputs: InferenceOutputs, start: int, stop: int) -> Any:
        """Make the response from these rows of the outputs, maybe in a thread, or raise."""
        raise NotImplementedError

    def answer(self, encoded: Any) -> None:
        """Send what `encode` has made, or raise."""
        raise NotImplementedError

    def deliver(self, outputs: InferenceOutputs, start: int, stop: int) -> None:
        """Answer with these rows of the outputs: large ones are encoded in a thread."""
        size = len(outputs.body)
        if size <= LARGE_BYTES or (size := outputs.cost(start, stop)) <= LARGE_BYTES:
            self.answer(self.encode(outputs, start, stop))
            return
        self.is_finished = False  # until it is encoded: its client may leave
        work = partial(self.encode, outputs, start, stop)
        self.offload.run(size, work, self._on_encoded, self.deadline)

    def _on_encoded(self, encoded: Any) -> None:
        if self.is_finished:
            return
        self.is_finished = True
        if isinstance(encoded, GatewayError):
            self.fail(encoded)
            return
        try:
            self.answer(encoded)
        except GatewayError as error:
            self.fail(error)
        except Exception:
            self.fail(report_bug())


ItemT = TypeVar("ItemT", bound=InferenceItem)


class VersionClient:
    """One version on one Triton, with what is known about it.

    `state`, whether Triton has it READY as last seen, is shared with the cluster. `codec` and
    `batcher` are None until the signature is known. `can_merge_outputs`: all are row-wise.
    """

    def __init__(
        self,
        triton: TritonCluster,
        model_name: str,
        version: int,
        signature: Signature | None,
        settings: Settings,
        budget: ByteBudget,
    ) -> None:
        self.triton = triton
        self.model_name = model_name
        self.version = version
        self.state = triton.version(model_name, version)
        self._name = f"{model_name} version {version}"
        self.codec: Codec | None = None
        self.batcher: Batcher[InferenceItem] | None = None
        self.can_merge_outputs = True
        self._settings = settings
        self._budget = budget
        self._builders: dict[object, RequestBuilder] = {}
        self._unusable: str | None = None
        if signature is not None:
            try:
                self._open(signature)
            except (ValueError, IndexError, KeyError) as error:
                # A bad signature in a registry or a record must not keep other versions from being
                # served.
                self._unusable = f"The signature of version {version} cannot be used: {error}."

    def _open(self, signature: Signature) -> None:
        settings, triton = self._settings, self.triton
        self.codec = codec = Codec(signature)
        self._reader = ResponseReader(self.version, codec)
        where = (triton.authority, triton.prefix, self.model_name, self.version)
        self._builders = {
            PREDICTION: RequestBuilder(*where, codec.inputs, named_outputs(codec.outputs)),
            EVERY_OUTPUT: RequestBuilder(*where, codec.inputs, ALL_OUTPUTS),
        }
        self.state.probe_request = self._builders[PREDICTION].build(codec.warm_up_rows(), 1)
        self.batcher = Batcher(
            self.start,
            self._name,
            max_rows=max(1, min(settings.max_batch_rows, signature.max_batch_rows)),
            max_in_flight=settings.max_in_flight,
            max_queued=settings.max_queued,
            budget=self._budget,
        )

    @property
    def ready(self) -> bool:
        """Whether the version can answer, as last seen."""
        return self.state.ready and self.batcher is not None

    @property
    def reason(self) -> str | None:
        """Why it cannot answer; None when it can."""
        if self.ready:
            return None
        return self._unusable or self.state.reason or "its signature is not known yet."

    @property
    def age(self) -> float:
        """Seconds since READY was last confirmed; infinite when it never was."""
        return time.monotonic() - (self.state.confirmed_at or -inf)

    @property
    def signature(self) -> Signature | None:
        """What the version reads: as recorded, or by Triton's metadata once that is known."""
        return None if self.codec is None else self.codec.signature

    def require_codec(self, variant: str) -> Codec:
        """The codec; `VariantUnavailable`, with the reason, when the version cannot answer."""
        codec = self.codec
        if codec is None or not self.state.ready:
            raise VariantUnavailable(
                f"Variant {variant} routes to version {self.version}, which cannot answer now: "
                f"{self.reason} It recovers by itself once Triton has that version READY."
            )
        return codec

    async def require_ready(self) -> None:
        """Ask Triton now, and learn the signature when none is recorded.

        `VersionNotReady` when it is not; `VariantUnavailable` when rows cannot be mapped to its
        inputs; `TritonUnavailable`, `DeadlineExceeded`, `BadUpstreamAnswer` when Triton cannot
        tell.
        """
        if self._unusable is not None:
            raise VariantUnavailable(self._unusable, code="unsupported_signature")
        limit = self._settings.probe_seconds
        await self.triton.require_ready(self.model_name, self.version, limit)
        await self._load_signature()

    async def probe(self) -> None:
        """Ask Triton now and note the answer; without a server, refuse queued requests."""
        await self.state.probe(self._settings.probe_seconds)
        if self.batcher is not None and self.state.choose() is None:
            # A stopped server ends no call, so queued requests would wait until their deadlines.
            self.batcher.refuse_waiting(self.state.unavailable())
        if self.state.ready and self._unusable is None:
            try:
                await self._load_signature()
            except VariantUnavailable as error:
                self._unusable = error.message
            except GatewayError:
                return  # the next probe tries again

    async def _load_signature(self) -> None:
        if self.batcher is not None:
            return
        limit = self._settings.probe_seconds
        metadata = await self.triton.metadata(self.model_name, limit, self.version)
        if metadata is None:
            raise VersionNotReady(
                f"Triton at {self.triton.url} unloaded {self._name} while it was asked about it."
            )
        self._open(signature_from_metadata(metadata, self.version))

    async def warm_up(self) -> None:
        """Run one harmless row through exactly this version, bypassing its clients' queue.

        `VersionNotReady` when that fails; `TritonUnavailable`, `DeadlineExceeded` when Triton is
        gone.
        """
        if self.codec is None:
            raise VersionNotReady(f"Version {self.version} was not prepared.")
        loop, limit = asyncio.get_running_loop(), self._settings.warm_up_seconds
        answer: asyncio.Future[TritonResponse | GatewayError] = loop.create_future()
        request = self._builders[PREDICTION].build(self.codec.warm_up_rows(), 1)
        call = self.triton.infer(self.state, request, loop.time() + limit, answer.set_result)
        try:
            async with asyncio.timeout(limit):
                result = await answer
            if isinstance(result, GatewayError):
                raise result
            self._reader.read(result, 1).model_output()
        except TimeoutError as error:
            call.abandon(overdue=True)
            raise DeadlineExceeded(f"{self._name} did not answer within {limit:g} s.") from error
        except (InferenceRefused, BadUpstreamAnswer) as error:
            raise VersionNotReady(
                f"A trial inference through {self._name} failed: {error.message}",
                code="warm_up_failed",
            ) from error
        finally:
            call.abandon()

    def start(self, batch: Batch[ItemT], batcher: Batcher[ItemT]) -> None:
        """Begin the inference of a batch."""
        items, triton = batch.items, self.triton
        first, span = items[0], None
        tensors, trace, tail = first.tensors, first.traceparent, first.tail
        if len(items) > 1:
            tensors = join_tensors([item.tensors for item in items])
            if trace is None:  # it can belong to one trace only
                trace = next((item.traceparent for item in items if item.traceparent), None)
        if triton.tracing is not None:
            spans = [item.span for item in items if item.span is not None]
            span = triton.tracing.inference(self.model_name, self.version, batch.rows, spans)
            trace = trace if span is None else span.traceparent
        builder = self._builders[first.key or EVERY_OUTPUT]
        batch.call = triton.infer(
            self.state,
            builder.build(tensors, batch.rows, trace, tail),
            items[-1].deadline,
            partial(self._on_complete, batch, tensors, batcher, span),
            tail is None,  # its parameters may be those of a sequence
        )

    def _on_complete(
        self,
        batch: Batch[ItemT],
        tensors: Tensors,
        batcher: Batcher[ItemT],
        span: InferenceSpan | None,
        result: TritonResponse | GatewayError,
    ) -> None:
        """Give each item its part of the outputs, or its error, and start what is queued."""
        batch.call = None  # it refers to this batch: a cycle would wait for the garbage collector
        if span is not None:
            span.end(result if isinstance(result, GatewayError) else None)
        if isinstance(result, TritonResponse):
            try:
                outputs = self._reader.read(result, batch.rows, tensors)
            except GatewayError as error:
                batcher.fail(batch, error)
                return
            deliver(batch, outputs)
            batcher.complete(batch)
        elif self._is_worth_splitting(result):
            limit = _BATCH_LIMIT.search(result.message)
            if limit is not None:
                batcher.max_rows = max(1, min(batcher.max_rows, int(limit[1])))
            batcher.split(batch, result)
        else:
            batcher.fail(batch, result)

    def _is_worth_splitting(self, error: GatewayError) -> bool:
        """Whether a single row may have made the whole inference fail.

        Triton's backends answer a value that a graph cannot process with 500. While other
        inferences succeed, the culprit is searched for; a version that always fails is not asked
        again and again.
        """
        is_by_row = error.code == MODEL_FAILED and self.age < _SUCCESS_SECONDS
        return is_by_row or isinstance(error, InferenceRefused)


def deliver(batch: Batch[ItemT], outputs: InferenceOutputs) -> None:
    """Distribute the outputs; an item that cannot use its part fails alone."""
    start = 0
    for item in batch.items:
        stop = start + item.rows
        if not item.is_finished:
            item.is_finished = True
            try:
                item.deliver(outputs, start, stop)
            except GatewayError as error:
                item.fail(error)
            except Exception:
                item.fail(report_bug())
        start = stop


def report_bug() -> GatewayError:
    """Log the exception that is being handled, and return the error for its request."""
    log.exception("a request failed because of a bug")
    return GatewayError("The gateway failed because of a bug; see its log.")


def join_tensors(parts: Sequence[Tensors]) -> Tensors:
    """Join the tensors of several requests, input by input."""
    if len(parts[0]) == 1:
        return (b"".join([part[0] for part in parts]),)
    return tuple([b"".join(columns) for columns in zip(*parts, strict=True)])
