"""Test problems, from analytic functions to hyperparameter search; imported as ``blackbox.problems``."""
