"""The exam that every strategy sits; other packages' strategies may sit it too.

    from blackbox.testing import CHECKS, check_strategy, check_virtual_strategy
    check_strategy(MyStrategy(popsize=12))                  # all checks, NumPy
    check_strategy(MyStrategy(popsize=12), library="jax")   # and with JAX arrays
    check_virtual_strategy(MyStrategy(popsize=12))          # one whose populations are virtual

Each check is a function of a strategy and a start point and raises :class:`AssertionError` with the law that is
broken.
"""

from __future__ import annotations

from blackbox.testing.dense import (
    CHECKS,
    Check,
    advance,
    assert_same,
    check_ask_is_pure,
    check_endless_runs,
    check_further_members,
    check_improves_with_failures,
    check_injected_points,
    check_libraries_agree,
    check_lower_is_better,
    check_nan_ranks_last,
    check_order_of_members,
    check_replayable,
    check_scan_and_vmap,
    check_seeds_differ,
    check_shape_stable,
    check_sizes_of_population,
    check_strategy,
    check_total_on_fitness,
    check_types_of_fitness,
    leaves,
    sphere,
    start_point,
)
from blackbox.testing.virtual import VIRTUAL_CHECKS, VirtualCheck, check_virtual_strategy

__all__ = [
    "CHECKS",
    "VIRTUAL_CHECKS",
    "Check",
    "VirtualCheck",
    "advance",
    "assert_same",
    "check_ask_is_pure",
    "check_endless_runs",
    "check_further_members",
    "check_improves_with_failures",
    "check_injected_points",
    "check_libraries_agree",
    "check_lower_is_better",
    "check_nan_ranks_last",
    "check_order_of_members",
    "check_replayable",
    "check_scan_and_vmap",
    "check_seeds_differ",
    "check_shape_stable",
    "check_sizes_of_population",
    "check_strategy",
    "check_total_on_fitness",
    "check_types_of_fitness",
    "check_virtual_strategy",
    "leaves",
    "sphere",
    "start_point",
]
