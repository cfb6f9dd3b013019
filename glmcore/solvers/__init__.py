"""One file an algorithm; see :mod:`glmcore.solvers.base` for what a solver is."""

from glmcore.solvers.base import AbstractSolver
from glmcore.solvers.lbfgs import LBFGS
from glmcore.solvers.proximal_gradient import ProximalGradient

__all__ = ["LBFGS", "AbstractSolver", "ProximalGradient"]
