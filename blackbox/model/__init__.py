"""Methods that model the objective."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(__name__, {"ego": ["EGO"]})
