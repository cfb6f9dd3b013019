"""One file an algorithm; see :mod:`glmcore.solvers.base` for what a solver is."""

from glmcore.solvers.base import AbstractSolver, default_tol
from glmcore.solvers.bfgs import BFGS
from glmcore.solvers.gradient_descent import GradientDescent
from glmcore.solvers.lbfgs import LBFGS
from glmcore.solvers.newton import Newton
from glmcore.solvers.nonlinear_cg import NonlinearCG
from glmcore.solvers.optax_solver import Optax
from glmcore.solvers.proximal_gradient import ProximalGradient
from glmcore.solvers.proximal_newton import ProximalNewton
from glmcore.solvers.svrg import SVRG, ProxSVRG

__all__ = [
    "BFGS",
    "LBFGS",
    "SVRG",
    "AbstractSolver",
    "GradientDescent",
    "Newton",
    "NonlinearCG",
    "Optax",
    "ProxSVRG",
    "ProximalGradient",
    "ProximalNewton",
    "default_tol",
]
