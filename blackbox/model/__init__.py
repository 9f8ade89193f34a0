"""Methods that model the objective by Gaussian processes."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(__name__, {"ego": ["EGO"], "turbo": ["Turbo"]})
