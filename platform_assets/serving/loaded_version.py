"""The loaded version that the gates judge, and the production that it would replace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from platform_assets.export.runtime import ModelAnswers, answers_in, blank_row, model_inputs
from platform_assets.export.sandbox import run_sandboxed
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_version
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.answers import ask_triton
from platform_assets.serving.ledger import best_version
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.records import ServingState
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import MODEL_FILE


def failed_gate(
    metadata: dict[str, Any],
    why: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Return the verdict of a gate that the version fails; severity ERROR blocks the release."""
    return dg.AssetCheckResult(passed=False, severity=severity, description=why, metadata=metadata)


class ProductionUnknown(Exception):
    """The version in production, or what that version reads, cannot be determined."""


@dataclass(frozen=True)
class LoadedVersion:
    """A version that Triton was asked to load; what several gates need is fetched once.

    Everything fetched may raise `RegistryError`, answers may raise `TritonError`.
    """

    spec: ModelSpec
    state: ServingState
    triton: TritonResource
    gateway: GatewayResource
    mlflow: MlflowResource
    repository: ModelRepository
    instance: dg.DagsterInstance

    @property
    def identity(self) -> dict[str, Any]:
        """Metadata that ties a verdict to this load."""
        return {"version": self.state.version, LOAD_ID: self.state.load_id}

    @cached_property
    def registered(self) -> RegisteredVersion:
        """The version's record in MLflow."""
        return self.mlflow.version(self.state.model_name, self.state.version)

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """The version's held-out rows."""
        return self.mlflow.evaluation_set(self.state.run_id)

    @cached_property
    def answers(self) -> list[ModelAnswers]:
        """Each Triton server's answers to the evaluation rows."""
        return self.triton.everywhere(
            lambda endpoint: ask_triton(self.registered, self.evaluation.features, endpoint)
        )

    def answer_blank_row(self) -> None:
        """Let each Triton server answer a gateway's trial row; TritonError if one cannot."""
        row = blank_row(self.registered.signature)
        self.triton.everywhere(lambda endpoint: ask_triton(self.registered, row, endpoint))

    @cached_property
    def production_version(self) -> int | None:
        """The other version that clients get now; None where there is none.

        Raises:
            ProductionUnknown: a gateway does not answer, or replicas disagree.
        """
        try:
            statuses = self.gateway.model_statuses(self.spec.model_name)
        except GatewayClientError as error:
            raise ProductionUnknown(
                f"the gateway could not be asked what is in production: {error}"
            ) from error
        routed = {routed_version(status, PRODUCTION) for status in statuses} - {None}
        if len(routed) > 1:
            raise ProductionUnknown(f"the gateway's replicas disagree about production: {routed}")
        version = routed.pop() if routed else None
        return None if version == self.state.version else version

    @cached_property
    def best_version(self) -> int | None:
        """The best version that was ever in production, by the ledger; None before the first."""
        return best_version(self.instance, self.spec)

    def has_graph_of(self, version: int) -> bool:
        """Whether another version's graph on disk is this one's, byte for byte."""
        name = self.state.model_name
        try:
            digests = {
                self.repository.verify(name, number).onnx_sha256
                for number in (self.state.version, version)
            }
        except RepositoryError:
            return False
        return len(digests) == 1

    def ask(self, other: RegisteredVersion) -> ModelAnswers:
        """Return another version's answers to the evaluation rows.

        Triton gives them where it is READY, else its graph on disk in a resource-limited process.

        Raises:
            TritonError: Triton does not answer.
            RepositoryError: it is neither READY nor on disk.
            InvalidGraph: its graph cannot be run.
        """
        name, signature = other.model_name, other.signature
        if other.version in self.triton.ready_versions(name):
            return ask_triton(other, self.evaluation.features, self.triton.endpoints()[0])
        self.repository.verify(name, other.version)
        graph = (self.repository.path(name, other.version) / MODEL_FILE).read_bytes()
        outputs = run_sandboxed(graph, signature, model_inputs(signature, self.evaluation.features))
        return answers_in(outputs, signature)

    def version_record(self, version: int) -> RegisteredVersion:
        """Return another version's record: MLflow's or, if deleted there, the one on disk.

        Raises:
            ProductionUnknown: neither knows what it reads.
        """
        name = self.spec.model_name
        try:
            return self.mlflow.version(name, version)
        except RegistryError as error:
            try:
                manifest = self.repository.verify(name, version)
            except RepositoryError as unreadable:
                raise ProductionUnknown(
                    f"version {version} is recorded neither by MLflow ({error}) nor in the model "
                    f"repository ({unreadable})"
                ) from error
            if manifest.signature is None:
                raise ProductionUnknown(
                    f"what version {version} reads is not recorded: {error}"
                ) from error
            return RegisteredVersion(
                name,
                version,
                manifest.run_id,
                manifest.data_fingerprint,
                manifest.signature,
                split=manifest.split,
                threshold=manifest.threshold,
            )
