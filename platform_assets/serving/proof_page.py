"""The proof of a promotion as one HTML page, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from platform_assets.export.parity import Parity
from platform_assets.resources import pages
from platform_assets.resources.gateway import confirmed_version, replicas_behind
from platform_assets.serving.ledger import Entry
from platform_assets.serving.records import GateVerdict, Promotion
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import ModelStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What every server reported about a version after the switch to it."""

    promotion: Promotion
    at: str
    """RFC 3339 time, in UTC."""
    ready_servers: Sequence[bool]
    """Whether each Triton has the version READY."""
    statuses: Sequence[ModelStatus]
    """Status of each gateway that was asked."""
    parity: Parity
    rows: Sequence[Mapping[str, str]]
    """Some rows of the evaluation set, as the gateway and scikit-learn answer them."""
    ledger: Sequence[Entry]
    run_url: str
    version_url: str

    @property
    def claims(self) -> dict[str, bool]:
        """The two conditions of being in production, and whether each held."""
        version, ready = self.promotion.version, self.ready_servers
        generation = self.promotion.answer.generation
        replicas = {replica.id for status in self.statuses for replica in status.replicas}
        is_followed = all(
            confirmed_version(status, PRODUCTION) == version
            and not replicas_behind(status, generation)
            for status in self.statuses
        )
        return {
            f"Triton has version {version} READY: {sum(ready)} of {len(ready)} servers.": all(
                ready
            ),
            f"Every gateway replica has reloaded onto it: {len(replicas)} asked, generation "
            f"{generation} or later.": is_followed,
        }


def proof_page(evidence: Evidence, files: Mapping[str, str]) -> str:
    """Return the page, which embeds `files`, the servers' own answers, verbatim."""
    promotion = evidence.promotion
    title = f"{promotion.model_name} version {promotion.version}"
    proven = all(evidence.claims.values()) and evidence.parity.holds
    links = [
        pages.link(evidence.version_url, "version in MLflow"),
        pages.link(evidence.run_url, "its run"),
    ]
    return pages.page(
        f"Proof: {title}",
        pages.headline(
            title,
            "In production" if proven else "Not proven in production",
            f"As every server said at {evidence.at}:",
            good=proven,
            more=f"{pages.checklist(evidence.claims)}<p>{' · '.join(links)}</p>",
        ),
        _comparison(promotion.verdict),
        _parity(evidence),
        _ledger(evidence.ledger),
        pages.section(
            "What the servers said",
            *(pages.collapsible(name, pages.verbatim(text, name)) for name, text in files.items()),
        ),
    )


def _comparison(verdict: GateVerdict) -> str:
    parts = [pages.paragraph(verdict.metric)]
    if verdict.picture:
        parts.append(pages.figure(verdict.picture, "candidate against production"))
    if verdict.description:
        parts.append(pages.paragraph(verdict.description, soft=True))
    return pages.section("Metric against the floor and production", *parts)


def _parity(evidence: Evidence) -> str:
    parity = evidence.parity
    held = "as scikit-learn did" if parity.holds else "differently from scikit-learn"
    return pages.section(
        "Predictions through the gateway",
        pages.paragraph(
            f"{parity.rows} held-out rows are answered {held}; the largest difference of a "
            f"probability is {parity.largest_probability_difference:.2g}."
        ),
        pages.table(evidence.rows, "Some of them") if evidence.rows else "",
    )


def _ledger(ledger: Sequence[Entry]) -> str:
    rows = [
        {
            "at (UTC)": entry.at.replace("T", " ").removesuffix("+00:00"),
            "version": entry.version,
            "before": entry.previous_version or "none",
            "what": entry.action,
            "by": entry.by,
            "why": " ".join(filter(None, (entry.reason, entry.missing))),
            "chain": entry.chain or "none",
        }
        for entry in ledger
    ]
    return pages.section("Deployment ledger", pages.table(rows, "The newest first") if rows else "")
