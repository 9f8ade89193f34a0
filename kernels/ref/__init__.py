"""Noise specification 1 and the operations in NumPy: the reference that every other backend must equal."""

from .episodes import formed as formed
from .episodes import rollout as rollout
from .generator import fold as fold
from .generator import fold_many as fold_many
from .generator import philox as philox
from .generator import words as words
from .kinds import CENTERED as CENTERED
from .kinds import binom8_counts as binom8_counts
from .kinds import generation_noise as generation_noise
from .kinds import noise as noise
from .kinds import noise_of_runs as noise_of_runs
from .low_rank import lowrank_factors as lowrank_factors
from .low_rank import lowrank_mix as lowrank_mix
from .sums import seedsum as seedsum
