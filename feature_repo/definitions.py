"""Feast objects of every model and table file, for the Feast command line.

The pipeline needs none of it. The command line takes what it finds by a name in this module.
"""

import os
from pathlib import Path

from platform_assets.components.loading import read_models
from platform_assets.features.feast_definitions import feast_definitions

_found = read_models()
globals().update(
    {
        f"{type(one).__name__}_{one.name}": one
        for spec in (*_found.tables.values(), *_found.specs.values())
        for one in feast_definitions(spec, Path(os.environ["FEAST_STATE_DIR"]) / "data")
    }
)
