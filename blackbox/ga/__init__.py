"""Genetic algorithms and differential evolution: methods that keep a population of points."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "compaction": ["compact", "restore"],
        "deep_ga": ["DeepGA"],
        "decoding": ["decode", "rebase"],
        "l_shade": ["LSHADE"],
        "directions": ["reference_directions"],
        "genetic_algorithm": ["GeneticAlgorithm"],
        "nsga2": ["NSGA2"],
        "nsga3": ["NSGA3"],
        "offspring": ["OffspringPopulation"],
        "safe_mutation": ["rescaled", "sensitivity_scale"],
    },
)
