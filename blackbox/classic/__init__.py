"""Classic direct search: random, quasi-random and simplex methods."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {"nelder_mead": ["NelderMead"], "quadratic": ["Quadratic"], "random_search": ["RandomSearch"], "sobol": ["Sobol"]},
)
