"""Multinomial (softmax) generalised linear models as pure functions on JAX."""

from glmcore import npz
from glmcore.batches import fit_batches
from glmcore.checkpoint import Checkpoint
from glmcore.checks import cast_features
from glmcore.cores import on_cores
from glmcore.jit import quick_jit
from glmcore.model import GLM
from glmcore.observations import AbstractObservations, Categorical
from glmcore.padding import pad_rows
from glmcore.params import GLMParams
from glmcore.path import PathResult, regularization_path
from glmcore.penalties import (
    AbstractPenalty,
    ElasticNet,
    GroupLasso,
    Lasso,
    Ridge,
    UnRegularized,
)
from glmcore.progress import Progress, Trace
from glmcore.resampling import BootstrapResult, JackknifeResult, bootstrap, jackknife
from glmcore.results import FitProgress, FitResult, HeldOut, SolverState
from glmcore.scores import log_likelihood, null_log_likelihood
from glmcore.sharding import local_rows, shard_rows
from glmcore.solve import default_solver, fit, init_state, solver_for_outliers, update
from glmcore.solvers import (
    BFGS,
    LBFGS,
    SVRG,
    AbstractSolver,
    GradientDescent,
    Newton,
    NonlinearCG,
    Optax,
    ProximalGradient,
    ProximalNewton,
    ProxSVRG,
    default_tol,
)
from glmcore.status import Status, status_name, status_named
from glmcore.warn import warn_user

__all__ = [
    "BFGS",
    "GLM",
    "LBFGS",
    "SVRG",
    "AbstractObservations",
    "AbstractPenalty",
    "AbstractSolver",
    "BootstrapResult",
    "Categorical",
    "Checkpoint",
    "ElasticNet",
    "FitProgress",
    "FitResult",
    "GLMParams",
    "GradientDescent",
    "GroupLasso",
    "HeldOut",
    "JackknifeResult",
    "Lasso",
    "Newton",
    "NonlinearCG",
    "Optax",
    "PathResult",
    "Progress",
    "ProxSVRG",
    "ProximalGradient",
    "ProximalNewton",
    "Ridge",
    "SolverState",
    "Status",
    "Trace",
    "UnRegularized",
    "bootstrap",
    "cast_features",
    "default_solver",
    "default_tol",
    "fit",
    "fit_batches",
    "init_state",
    "jackknife",
    "local_rows",
    "log_likelihood",
    "npz",
    "null_log_likelihood",
    "on_cores",
    "pad_rows",
    "quick_jit",
    "regularization_path",
    "shard_rows",
    "solver_for_outliers",
    "status_name",
    "status_named",
    "update",
    "warn_user",
]
