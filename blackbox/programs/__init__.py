"""Search over programs: optimizers as straight-line code, evolved by regularised evolution."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "abstract": ["Analysis", "analysis"],
        "execution": ["descend", "start", "step"],
        "functions": ["FUNCTIONS", "Function"],
        "selection": ["Finalist", "funnel"],
        "language": ["Program", "Statement", "parse"],
        "mutation": ["Draws", "mutate"],  # of blackbox.draws
        "optimizers": ["ADAMW", "GRADIENT", "LION", "MOMENTUM"],
        "regularized_evolution": ["Member", "RegularizedEvolution", "SearchState", "search"],
        "stored": ["from_json", "to_json"],
        "for_optax": ["transformation"],
    },
)
