"""Zeroth-order estimation: gradients from function values alone, for models and for black boxes."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "cge": ["CGE"],
        "deep_zero": ["DeepZero", "grasp_densities"],
        "differences": ["Estimate", "Estimator"],
        "gradient": ["value_and_grad"],
        "rge": ["RGE"],
        "smoothing": ["smoothing_radius"],
        "zo": ["ZO"],
    },
)
