"""Methods that model the objective: Gaussian processes in a trust region."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(__name__, {"turbo": ["Turbo"]})
