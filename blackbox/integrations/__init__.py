"""blackbox under the interfaces of other packages, each imported on its own.

==================================  ====================================================================
module                           offers
==================================  ====================================================================
``blackbox.integrations.sklearn``  ``BlackboxSearchCV``, a search of scikit-learn
``blackbox.integrations.optuna``   ``BlackboxSampler``, a sampler of Optuna; spaces in both directions
``blackbox.integrations.ray``      ``BlackboxSearch``, a search algorithm of Ray Tune
``blackbox.integrations.scipy``    ``scipy_method``, a method of ``scipy.optimize.minimize``
==================================  ====================================================================
"""
