"""Model-based strategies: one algorithm per file."""
