"""Confidence sequences: bounds that hold at every sample size at once.

Bounds of a fixed-sample test are right at one look that was planned; watched continuously, they
exclude the truth sooner or later. The bounds of a confidence sequence may be read after each
observation, and acted on, without changing their error rate. Each of these records holds sums and
counts alone, so the records of several replicas, or of a time before and after a restart, add up
to the record of all their observations.
"""

from serving_gateway.contract.confidence.bounded_mean import BoundedMean
from serving_gateway.contract.confidence.event_rate import EventRate
from serving_gateway.contract.confidence.interval import ConfidenceSequence, Interval
from serving_gateway.contract.confidence.paired_outcomes import PairedOutcomes
from serving_gateway.contract.confidence.quantiles import (
    LATENCY_EDGES,
    BucketCounts,
    quantile_ratio,
)
from serving_gateway.contract.confidence.trials import Trials, proportion_difference

__all__ = [
    "LATENCY_EDGES",
    "BoundedMean",
    "BucketCounts",
    "ConfidenceSequence",
    "EventRate",
    "Interval",
    "PairedOutcomes",
    "Trials",
    "proportion_difference",
    "quantile_ratio",
]
