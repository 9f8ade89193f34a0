"""Quality diversity: archives of good solutions that differ in what they do, and the search for novelty."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "archive": ["Archive", "Outcome", "corrected", "coverage", "empty", "insert", "qd_score"],
        "cma_mae": ["CMAMAE"],
        "cma_me": ["CMAME"],
        "dominated_novelty": ["DominatedNoveltySearch"],
        "map_elites": ["MAPElites"],
        "novelty": ["NoveltySearch"],
        "ns_es": ["NSES"],
    },
)
