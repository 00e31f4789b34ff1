"""Make a passport from the records of every available source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from platform_assets.ledger.chain import LedgerEntry
from platform_assets.ledger.journal import Journal
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.passport.document import FORMAT, SECTIONS, Passport, VersionRecords, merge
from platform_assets.passport.from_dagster import collect_from_dagster
from platform_assets.passport.from_ledger import collect_from_ledger, periods
from platform_assets.passport.from_servers import collect_from_mlflow, collect_from_repository
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.serving.ledger_entries import HASH


@dataclass(frozen=True, slots=True)
class Sources:
    """The places that record versions; None for one that is not configured."""

    journal: Callable[[str], Journal | None]
    key: DeploymentKey
    instance: dg.DagsterInstance | None = None
    mlflow: MlflowResource | None = None
    repository: ModelRepository | None = None

    def collect(self, entries: list[LedgerEntry], model_name: str, version: int) -> VersionRecords:
        """Return the records of a version from all sources."""
        parts = [collect_from_ledger(entries, version)]
        if self.instance is None:
            parts.append(VersionRecords(missing=["Dagster was not asked (DAGSTER_HOME)."]))
        else:
            parts.append(collect_from_dagster(self.instance, model_name, version))
        if self.mlflow is None:
            parts.append(VersionRecords(missing=["MLflow was not asked (MLFLOW_TRACKING_URI)."]))
        else:
            parts.append(collect_from_mlflow(self.mlflow, model_name, version))
        if self.repository is None:
            parts.append(
                VersionRecords(missing=["The repository was not read (MODEL_REPOSITORY)."])
            )
        else:
            parts.append(collect_from_repository(self.repository, model_name, version))
        return merge(parts)


def make_passport(sources: Sources, model_name: str, version: int) -> Passport:
    """Return the passport of a version as of now.

    Raises:
        LedgerError: the ledger is not readable.
    """
    journal = sources.journal(model_name)
    entries = [] if journal is None else journal.entries()
    records = sources.collect(entries, model_name, version)
    hashes = {entry.hash for entry in entries}
    return Passport(
        format=FORMAT,
        model_name=model_name,
        version=version,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        facts={
            section: records.facts[section] for section in SECTIONS if records.facts.get(section)
        },
        periods=periods(entries, version),
        # Omit Dagster's copies of acts that are in the ledger.
        release=[act for act in records.acts if act.content.get(HASH) not in hashes],
        missing=records.missing,
        public_keys=sources.key.public_pem,
        ledger=entries,
    )
