"""blackbox under the interfaces of other packages, each imported on its own.

=======================================  ==============================================================================
module                                   offers
=======================================  ==============================================================================
``blackbox.integrations.sklearn``        ``BlackboxSearchCV``, a search of scikit-learn
``blackbox.integrations.optuna``         ``BlackboxSampler``, a sampler of Optuna; spaces in both directions
``blackbox.integrations.ray``            ``BlackboxSearch``, a search algorithm of Ray Tune
``blackbox.integrations.nevergrad``      ``BlackboxOptimizer``, names in nevergrad's registry; spaces in both directions
``blackbox.integrations.scipy``          ``scipy_method``, a method of ``scipy.optimize.minimize``
``blackbox.integrations.distributions``  dictionaries of scipy.stats' distributions as spaces, and back
``blackbox.integrations.config_space``   spaces of ConfigSpace, and back
=======================================  ==============================================================================
"""
