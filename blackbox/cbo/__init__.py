"""Consensus-based optimization: swarms that drift to a weighted mean of themselves."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "adam": ["AdamCBO"],
        "memory": ["MemoryCBO"],
        "second_order": ["SecondOrderCBO"],
        "cbo": ["CBO"],
        "federated": ["FedCBO"],
        "multi_objective": ["MultiObjectiveCBO"],
        "polarized": ["Minima", "PolarizedCBO", "minima"],
        "mirror": ["MirrorCBO"],
        "manifold": ["ManifoldCBO"],
        "constrained": ["ConstrainedCBO"],
        "hopping": ["ConsensusHopping"],
        "cbs": ["CBS"],
    },
)
