"""All that pipeline and gateway share: names, signature, routing record, bodies, style of pages.

Nothing here does I/O, except that the style is read from its file. The words are those of the
README's glossary; a version is the same integer in MLflow, in the Triton repository and in the
routing record, never mapped.
"""

from serving_gateway.contract.confidence import *
from serving_gateway.contract.control import *
from serving_gateway.contract.feast_import import *
from serving_gateway.contract.inference import *
from serving_gateway.contract.names import *
from serving_gateway.contract.outcomes import *
from serving_gateway.contract.prediction_log import *
from serving_gateway.contract.release import *
from serving_gateway.contract.release_estimates import *
from serving_gateway.contract.release_judgement import *
from serving_gateway.contract.routing import *
from serving_gateway.contract.signature import *
from serving_gateway.contract.status import *
from serving_gateway.contract.style import *
from serving_gateway.contract.traffic import *
