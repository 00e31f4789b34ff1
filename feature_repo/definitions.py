"""Feast objects of every model file, for the Feast command line; the pipeline needs none of it.

The command line takes what it finds by a name in this module.
"""

import os
from pathlib import Path

from platform_assets.components.loading import load_specs
from platform_assets.features.feast_definitions import feast_definitions

globals().update(
    {
        f"{type(one).__name__}_{one.name}": one
        for spec in load_specs()
        for one in feast_definitions(spec, Path(os.environ["FEAST_STATE_DIR"]) / "data")
    }
)
