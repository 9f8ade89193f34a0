"""Noise specification 1 and the operations in JAX: the same words, and under 64-bit mode the same bits of every kind.

Without 64-bit mode XLA decides whether ``a * b + c`` is fused, so ``normal`` may differ from the reference: hardly ever
where it is fused, in the last two bits where it is not. All other kinds are exact in either mode.
"""

from .episodes import formed as formed
from .episodes import rollout as rollout
from .generator import fold as fold
from .generator import philox as philox
from .generator import word as word
from .kinds import binom8_counts as binom8_counts
from .kinds import centered_noise as centered_noise
from .kinds import noise as noise
from .kinds import noise_of_runs as noise_of_runs
from .kinds import signs as signs
from .kinds import words_of as words_of
from .low_rank import lowrank_factors as lowrank_factors
from .low_rank import lowrank_mix as lowrank_mix
from .sums import seedsum as seedsum
