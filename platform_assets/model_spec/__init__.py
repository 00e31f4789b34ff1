"""What distinguishes one model from another: the content of a model file, as records.

A model file is validated into a `ModelSpec` (`platform_assets.components`), which the slices of
the chain take, in whole or in part. Fields have the names and the meaning of the file; where the
code uses another name, the alias is that of the file.
"""

from platform_assets.model_spec.columns import *
from platform_assets.model_spec.decision import *
from platform_assets.model_spec.feature_source import *
from platform_assets.model_spec.labels import *
from platform_assets.model_spec.model import *
from platform_assets.model_spec.operation import *
from platform_assets.model_spec.outcomes import *
from platform_assets.model_spec.release import *
from platform_assets.model_spec.search import *
from platform_assets.model_spec.source import *
from platform_assets.model_spec.table import *
from platform_assets.model_spec.training import *
from platform_assets.model_spec.weighting import *
