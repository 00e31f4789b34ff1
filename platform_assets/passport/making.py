"""Make a passport: ask every source, and keep going where one does not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from platform_assets.ledger.chain import LedgerEntry
from platform_assets.ledger.journal import Journal
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.passport.document import FORMAT, SECTIONS, Act, Passport
from platform_assets.passport.from_dagster import known_to_dagster
from platform_assets.passport.from_ledger import known_to_ledger, periods
from platform_assets.passport.from_servers import known_to_mlflow, known_to_repository
from platform_assets.passport.sources import Known, merged
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.serving.ledger_entries import HASH


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that knows of versions; None for what is not configured."""

    journal: Callable[[str], Journal | None]
    key: DeploymentKey
    instance: dg.DagsterInstance | None = None
    mlflow: MlflowResource | None = None
    repository: ModelRepository | None = None

    def known(self, entries: list[LedgerEntry], model_name: str, version: int) -> Known:
        """Return what each of them knows of a version."""
        parts = [known_to_ledger(entries, version)]
        if self.instance is None:
            parts.append(Known(missing=["Dagster was not asked (DAGSTER_HOME)."]))
        else:
            parts.append(known_to_dagster(self.instance, model_name, version))
        if self.mlflow is None:
            parts.append(Known(missing=["MLflow was not asked (MLFLOW_TRACKING_URI)."]))
        else:
            parts.append(known_to_mlflow(self.mlflow, model_name, version))
        if self.repository is None:
            parts.append(Known(missing=["The repository was not read (MODEL_REPOSITORY)."]))
        else:
            parts.append(known_to_repository(self.repository, model_name, version))
        return merged(parts)


def make_passport(sources: Sources, model_name: str, version: int) -> Passport:
    """Return the passport of a version as of now.

    Raises:
        LedgerError: the ledger is not readable.
    """
    journal = sources.journal(model_name)
    entries = [] if journal is None else journal.entries()
    known = sources.known(entries, model_name, version)
    return Passport(
        format=FORMAT,
        model_name=model_name,
        version=version,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        facts={section: known.facts[section] for section in SECTIONS if known.facts.get(section)},
        periods=periods(entries, version),
        release=_once(known.acts, entries),
        missing=known.missing,
        public_keys=sources.key.public_pem,
        ledger=entries,
    )


def _once(acts: list[Act], entries: list[LedgerEntry]) -> list[Act]:
    """Leave out what Dagster tells of an act that the ledger has."""
    hashes = {entry.hash for entry in entries}
    return [act for act in acts if act.content.get(HASH) not in hashes]
