"""Multinomial (softmax) generalised linear models as pure functions on JAX."""

from glmcore.observations import AbstractObservations, Categorical
from glmcore.params import GLMParams
from glmcore.penalties import (
    AbstractPenalty,
    ElasticNet,
    GroupLasso,
    Lasso,
    Ridge,
    UnRegularized,
)
from glmcore.model import GLM
from glmcore.solve import FitProgress, FitResult, SolverState, fit, init_state, update
from glmcore.solvers import LBFGS, AbstractSolver, ProximalGradient
from glmcore.status import Status
