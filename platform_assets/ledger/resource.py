"""The folder of the ledgers, as a Dagster resource."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.ledger.journal import Journal
from platform_assets.ledger.keys import DeploymentKey, read_key
from serving_gateway.contract import check_model_name

FOLDER_VARIABLE: Final = "LEDGER_DIR"
KEY_VARIABLE: Final = "LEDGER_KEY"


class LedgerFolder(dg.ConfigurableResource[None]):
    """One file per model, `<root>/<model_name>.jsonl`, to which entries are appended."""

    root: str = Field(
        default="",
        description=f"Folder that holds the ledgers; default: the variable {FOLDER_VARIABLE}. "
        "Without one, Dagster's materializations alone are the ledger.",
    )
    key: str = Field(
        default="",
        description="Ed25519 key as PEM, or the path of one, beside the public keys that it "
        f"replaced; default: the variable {KEY_VARIABLE}. Without one, entries are not signed.",
    )

    def journal(self, model_name: str) -> Journal | None:
        """Return the ledger of a model; None where no folder is configured."""
        folder = self.root or os.environ.get(FOLDER_VARIABLE, "")
        if not folder:
            return None
        home = Path(folder).expanduser().absolute()
        return Journal(home / f"{check_model_name(model_name)}.jsonl", model_name)

    def deployment_key(self) -> DeploymentKey:
        """Return the signing key and the trusted keys.

        Raises:
            KeyFileError: the key cannot be read.
        """
        return read_key(self.key or os.environ.get(KEY_VARIABLE, ""))
