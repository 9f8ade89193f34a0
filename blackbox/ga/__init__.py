"""Genetic algorithms and differential evolution: methods that keep a population of points."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "compaction": ["compact", "restore"],
        "deep_ga": ["DeepGA"],
        "decoding": ["decode", "rebase"],
        "l_shade": ["LSHADE"],
        "nsga2": ["NSGA2"],
        "offspring": ["OffspringPopulation"],
        "safe_mutation": ["rescaled", "sensitivity_scale"],
    },
)
