"""Gradient-free optimization behind one ask/tell interface."""

__version__ = "0.1.0"
