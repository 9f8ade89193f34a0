"""The rules behind ``method="auto"``."""

from __future__ import annotations

import math
from typing import NamedTuple

from blackbox.box import Box
from blackbox.classic.sobol import MAX_DIMENSION
from blackbox.es.cma_es import default_popsize
from blackbox.space import Space

MODELLED = 20  # coordinates, or variables, up to which models are learned, and made, fast enough
MODELLED_AT_ONCE = 12  # coordinates up to which a full quadratic model is there before a trust region has converged
FEW = 25  # evaluations per coordinate up to which a trust region is ahead of whatever learns of the whole space
COSTLY = 500  # evaluations up to which they are likely to cost more than a Gaussian process, some milliseconds each
FULL_COVARIANCE = 200  # dimensions up to which a d x d covariance costs less than most objectives
MANY_OBJECTIVES = 1000  # evaluations from which reference directions are ahead of crowding for three and more
CORRELATIONS = 100  # evaluations per dimension from which a large problem's correlations can be learned


class Chosen(NamedTuple):
    """A method's name, and why it was chosen in one sentence."""

    method: str
    reason: str
    popsize: int | None = None
    """If it should not be the method's default."""


def choose_method(space: Space | Box, budget: int | None, parallel: float = 1) -> Chosen:
    """The method for a space, a budget of evaluations, and so many evaluations at once.

    * fewer evaluations than two generations of CMA-ES: ``sobol``, which covers the space evenly, up to its 1,111
      coordinates, and ``random`` beyond;
    * integers of few values, Booleans or choices among the variables: ``ego``, a Gaussian process, for up to 500
      evaluations of up to 20 variables, ``cat-cma`` for more;
    * up to 20 coordinates, and no more evaluations at once than coordinates: ``quadratic``, a trust region, for up to
      25 evaluations per coordinate; for more ``lq-cma-es+quadratic``, a CMA-ES that ranks its populations by a model
      and takes turns with the trust region once it has converged or used 40 evaluations per coordinate; beyond 12
      coordinates, where that model takes more evaluations, ``quadratic+lq-cma-es``, the other way round;
    * up to 200 coordinates: ``cma-es``;
    * more: ``lm-ma-es``, or ``sep-cma-es`` where the budget is below 100 evaluations per coordinate.
    """
    d = space.dimension
    generation = default_popsize(d)  # of the CMA family
    if covering := _covering(d, budget):
        evenly = f"{covering.reason}: they cover evenly"
        return covering._replace(reason=evenly) if covering.method == "sobol" else covering
    short = ""
    if budget is not None and budget < 10 * generation:
        short = f"; {budget} evaluations are only {budget // generation} generations, so expect a rough result"
    discrete = sum(kind != "float" for kind, *_ in space.layout)
    if discrete:
        kinds = f"{discrete} of {len(space.layout)} variables are discrete"
        if budget is not None and budget <= COSTLY and len(space.layout) <= MODELLED:
            return Chosen("ego", f"{kinds}, and {budget} evaluations are few enough for a model of all")
        return Chosen("cat-cma", f"{kinds}{short}")
    if d <= MODELLED and parallel <= d:
        few = f"{d} continuous coordinate{'s' * (d > 1)}, few enough for quadratic models"
        method = "lq-cma-es+quadratic" if d <= MODELLED_AT_ONCE else "quadratic+lq-cma-es"
        if budget is not None and budget <= FEW * d:
            method = "quadratic"
        return Chosen(method, few + short)
    if d <= FULL_COVARIANCE:
        return Chosen("cma-es", f"{d} continuous coordinates, few enough for a full covariance{short}")
    if budget is not None and budget < CORRELATIONS * d:
        why = f"{d} continuous coordinates and {budget} evaluations, too few to learn correlations{short}"
        return Chosen("sep-cma-es", why)
    return Chosen("lm-ma-es", f"{d} continuous coordinates, too many for a full covariance{short}")


def choose_method_for(objectives: int, space: Space | Box, budget: int | None) -> Chosen:
    """The method that ``method="auto"`` stands for where there are several objectives, or constraints.

    Several objectives: ``nsga-ii``, or for three and more of them ``nsga-iii`` from 1,000 evaluations on, where it is
    ahead (``bench/multi.py``). With constraints, a method that ranks each generation anew:

    * fewer evaluations than two generations of CMA-ES: ``sobol``, or ``random`` beyond its 1,111 coordinates;
    * integers of few values, Booleans or choices among the variables: ``cat-cma``;
    * up to 200 coordinates: ``cma-es``; more: ``lm-ma-es``.
    """
    if objectives > 1:
        many = objectives > 2 and (budget is None or budget >= MANY_OBJECTIVES)
        return Chosen("nsga-iii" if many else "nsga-ii", f"{objectives} objectives")
    d = space.dimension
    if covering := _covering(d, budget):
        return covering
    if any(kind != "float" for kind, *_ in space.layout):
        return Chosen("cat-cma", "constraints, and variables that are discrete")
    if d <= FULL_COVARIANCE:
        return Chosen("cma-es", f"constraints, and {d} continuous coordinates, few enough for a full covariance")
    return Chosen("lm-ma-es", f"constraints, and {d} continuous coordinates, too many for a full covariance")


def choose_method_with_fidelity(space: Space | Box, configurations: float) -> Chosen:
    """The method that ``method="auto"`` stands for where evaluations have several budgets.

    * up to 20 variables and 500 configurations, as many as a budget is worth: ``ego``;
    * more, with integers of few values, Booleans or choices: ``cat-cma``;
    * up to 200 coordinates: ``cma-es``; more: ``sep-cma-es``.
    """
    if len(space.layout) <= MODELLED and configurations <= COSTLY:
        return Chosen("ego", f"budgets, and {len(space.layout)} variables, few enough for a model of all")
    if any(kind != "float" for kind, *_ in space.layout):
        return Chosen("cat-cma", "budgets, and variables that are discrete")
    name = "cma-es" if space.dimension <= FULL_COVARIANCE else "sep-cma-es"
    return Chosen(name, f"budgets, and {space.dimension} continuous coordinates")


def choose_method_under_noise(space: Space | Box, budget: int | None, parallel: float = 1) -> Chosen:
    """The method that ``method="auto"`` stands for where values of the same point differ.

    None that trusts a single value, such as ``quadratic`` and ``lq-cma-es``:

    * fewer evaluations than two generations of CMA-ES: ``sobol``, or ``random`` beyond its 1,111 coordinates;
    * up to 500 evaluations, not more than 20 at once, of up to 20 variables: ``ego``, whose model estimates the noise;
    * integers of few values, Booleans or choices among the variables: ``cat-cma``;
    * up to 200 coordinates: ``cma-es``; more: ``lm-ma-es``.

    The latter two average over a population, which is as large as there are generations: the root of the budget, or
    without one four times the default; never below this.
    """
    d = space.dimension
    if covering := _covering(d, budget):
        return covering
    if budget is not None and budget <= COSTLY and len(space.layout) <= MODELLED and parallel <= MODELLED:
        return Chosen("ego", f"noise, and {budget} evaluations are few enough for a model of all")
    popsize = max(default_popsize(d), 4 * default_popsize(d) if budget is None else round(math.sqrt(budget)))
    if any(kind != "float" for kind, *_ in space.layout):
        return Chosen("cat-cma", f"noise, and variables that are discrete; {popsize} candidates average it", popsize)
    method = "cma-es" if d <= FULL_COVARIANCE else "lm-ma-es"
    return Chosen(method, f"noise, and {d} continuous coordinates; {popsize} candidates average it", popsize)


def _covering(d: int, budget: int | None) -> Chosen | None:
    """What learns nothing, if the budget is below two generations of CMA-ES; else None."""
    if budget is None or budget >= 2 * default_popsize(d):
        return None
    reason = f"{budget} evaluations are too few for {d} coordinates to learn from"
    return Chosen("sobol" if d <= MAX_DIMENSION else "random", reason)
