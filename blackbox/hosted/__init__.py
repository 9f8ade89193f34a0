"""Other projects' optimizers under our interface: ``evosax:NAME``, ``nevergrad:NAME``, ``pyribs:NAME`` and
``scipy:NAME``.

``blackbox.create("evosax:SNES", popsize=20)`` builds one, and ``method="nevergrad:DE"`` names one in a search. The
packages are optional; each module's ``names()`` lists what the installed one has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {"evosax": ["Evosax"], "nevergrad": ["Nevergrad"], "pyribs": ["Pyribs"], "scipy": ["SciPy"]},
    submodules=("replay",),
)

if TYPE_CHECKING:
    from blackbox.hosted.evosax import Evosax as Evosax
    from blackbox.hosted.nevergrad import Nevergrad as Nevergrad
    from blackbox.hosted.pyribs import Pyribs as Pyribs
    from blackbox.hosted.scipy import SciPy as SciPy
