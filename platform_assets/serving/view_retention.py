"""Feature services that versions read which are not served any more, with views of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.triton import TritonError, TritonResource

if TYPE_CHECKING:
    from platform_assets.serving.promotion import Metadata


def delete_unread_views(
    spec: ModelSpec,
    *,
    feast: FeastResource,
    mlflow: MlflowResource,
    triton: TritonResource,
    repository: ModelRepository,
    log: logging.Logger,
) -> Metadata:
    """Delete the model's views but for those of versions that are READY or kept on disk.

    Returns metadata that says which ones. Where it cannot be known what one of these versions
    reads, all views stay.
    """
    name = spec.model_name
    try:
        unread = {*feast.services(name)} - {spec.feature_service}
        if unread:
            versions = {*repository.versions(name), *triton.ready_anywhere(name)}
            unread -= {mlflow.version(name, one).signature.feature_service for one in versions}
        for view in sorted(unread):
            feast.delete_service(view)
    except (FeatureStoreError, RegistryError, TritonError, OSError) as error:
        log.warning("The switch stands, but feature views were not deleted: %s", error)
        return {"deleted_feature_views": f"stopped: {error}"}
    return {"deleted_feature_views": ", ".join(sorted(unread)) or "none"}
