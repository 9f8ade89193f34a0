from blackbox.integrations.optuna import BlackboxSampler

__all__ = ["BlackboxSampler"]
