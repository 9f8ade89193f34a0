"""Evolution strategies: methods that move a search distribution."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "cat_cma": ["CatCMA"],
        "cma_es": ["CMAES"],
        "eggroll": ["Eggroll"],
        "integer_eggroll": ["IntegerEggroll"],
        "lm_ma_es": ["LMMAES"],
        "lq_cma_es": ["LQCMAES"],
        "open_es": ["OpenES"],
        "pgpe": ["PGPE"],
        "sep_cma_es": ["SepCMAES"],
        "snes": ["SNES"],
    },
)
