"""Counter-based noise and the few fused operations that decide speed; imported as ``blackbox.kernels``."""

from .dispatch import explain as explain
from .lowrank import lowrank_factors as lowrank_factors
from .lowrank import lowrank_linear as lowrank_linear
from .lowrank import lowrank_mix as lowrank_mix
from .rollout import rollout as rollout
from .seedsum import seedsum as seedsum
from .weights import LowRankWeights as LowRankWeights
from .weights import SummedWeights as SummedWeights
