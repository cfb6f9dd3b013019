"""``fit_batches``: the fit of data that are read in batches, again for every pass."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional

import jax
import numpy as np

from glmcore.centring import Moments
from glmcore.checks import check_model, check_params, check_penalty
from glmcore.coordinates import Coordinates
from glmcore.dense import DenseProblem
from glmcore.host_loop import HostLoop, Listeners
from glmcore.identity import Identity
from glmcore.least_norm import levelled_params
from glmcore.model import GLM
from glmcore.padding import pad_rows
from glmcore.params import GLMParams
from glmcore.programs import advance_and_tell, finish, in_dtype, params_so_far, run_fit, start
from glmcore.reading import Reader
from glmcore.results import FitResult
from glmcore.solvers import LBFGS, SVRG, Newton, ProximalGradient, ProxSVRG
from glmcore.solvers.base import AbstractSolver, check_solver, with_default_tol
from glmcore.staging import staged
from glmcore.status import Status
from glmcore.streamed import StreamedProblem, Sweeper
from glmcore.survey import Survey, survey
from glmcore.tree import is_concrete

#: Parameters (p K + K) up to which the Hessian of the sample is good enough for Newton's method.
_NEWTON_PARAMS = 2048

_coordinates = jax.jit(Coordinates.of, static_argnums=(3, 4, 5))


def fit_batches(
    model: GLM,
    batches: Iterable | Callable[[], Iterator],
    *,
    solver: Optional[AbstractSolver] = None,
    init_params: Optional[GLMParams | tuple] = None,
    callback: Any = None,
) -> FitResult:
    """:func:`fit` for data that do not fit into memory.

    Minimises what :func:`fit` minimises, sum_i w_i NLL_i / sum_i w_i + penalty(coef), over the rows
    of all batches: the optimum, ``tol`` and the statuses are those of :func:`fit`.  Objective and
    gradient are never estimates; Hessians and preconditioners are made of a sample of rows.

    Parameters
    ----------
    model : GLM
        What to fit.
    batches : iterable or callable
        Gives ``(X, y)`` or ``(X, y, weight)``, of what :func:`fit` takes as X, y and
        sample_weight, each time that it is iterated over; or a function that makes such an
        iterator.  Batches may have any number of rows, none included, and lack classes or
        weight.  The dtype is that of the first batch that has rows.
    solver : AbstractSolver, optional
        Any but SVRG and ProxSVRG.  Default: Newton up to 2048 parameters (p K + K) and LBFGS
        beyond; ProximalGradient if the penalty is not smooth.
    init_params : GLMParams or (coef, intercept), optional
        Where to start; default the optimum of the sample, if it has one and all classes, else the
        null model.
    callback : callable, or a list or tuple of callables, optional
        Called with a :class:`FitProgress` after steps, and about ten times a second with the
        pass and the batch that is being computed; or a :class:`Checkpoint`.

    Returns
    -------
    FitResult
        What :func:`fit` returns.

    Raises
    ------
    TypeError
        If ``batches`` can be iterated over only once, or a batch is not of the types that
        :func:`fit` takes.
    ValueError
        If a batch does not fit the model or the first batch; if X is not finite where the weight
        is not 0, labels are out of range or weights not from 0 to 1e15; if no row has weight.  The
        message names the batch.  Also if the number of rows or the weights of the classes differ
        between passes.

    Notes
    -----
    A first pass measures centre, scale and classes, or two if the scale of the first rows is far
    off, and draws a sample spread evenly over the weight: all rows while they are few, else 8192
    to 131 072 of them, and at least 4 a feature.  After another pass for the starting point, a step
    of Newton, LBFGS or BFGS is one pass (seldom more) and one of the other solvers about three.

    In memory are the sample, a few chunks of at most 32 MB and the batches that are being read, the
    next of them by a thread of their own.  Rows that are contiguous in memory (those of a
    ``numpy.memmap``, say) are not copied: a batch must not be overwritten once it is given.

    The same batches give the same answer; rows cut into other batches, up to rounding.  Values of X
    that change between passes go unnoticed and make the answer wrong.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.fit_batches(model, [(X[:3], y[:3]), (X[3:], y[3:])])
    >>> glmcore.Status[result.status]
    'converged'
    >>> result.params.coef.round(3)
    Array([[-0.372,  0.372]], dtype=float32)
    """
    listeners = Listeners.of(callback)
    check_model(model)
    if not is_concrete((model, solver, init_params)):
        raise ValueError("fit_batches cannot be called from inside jax.jit or jax.vmap")
    reader = Reader(model, batches)
    like = _features_like(reader)
    n_params = (sum(reader.shape.widths) + 1) * model.observations.n_outputs
    solver = _default_solver(model, n_params) if solver is None else solver
    check_solver(solver, model.penalty)
    if isinstance(solver, (SVRG, ProxSVRG)):
        raise ValueError(
            f"{type(solver).__name__} draws single rows, which batches do not give; use LBFGS, or "
            "ProximalGradient if the penalty is not smooth"
        )
    check_penalty(model, like)
    if init_params is not None:
        init_params = check_params(model, init_params, like)
    solver = with_default_tol(solver, reader.shape.dtype)
    loop = HostLoop(solver, listeners)
    model, solver = in_dtype((model, solver), reader.shape.dtype)

    keeps = listeners.checkpoint is not None
    found = survey(reader, model.observations.n_outputs, model.fit_intercept, with_digest=keeps)
    shape = (found.n_used, len(found.centre), reader.shape.dtype)
    identity = Identity.of(model, solver, shape, found.digest) if keeps else None
    sample = _sample(model, reader, found)
    problem = StreamedProblem.of(model, found, sample)
    if init_params is None:
        init_params = _optimum_of_sample(model, found, sample)
    loop.begins_at(lambda: levelled_params(problem, problem.null_params())[0] if init_params is None else init_params)
    sweeper = Sweeper(reader, problem, found.class_weights.sum(), loop.tell_batch)
    return loop.run(
        *staged(sweeper, start, problem, init_params, solver),
        advance=lambda *args: staged(sweeper, advance_and_tell, *args),
        finish=lambda *args: staged(sweeper, finish, *args),
        params=params_so_far,
        identity=identity,
    )


def _default_solver(model: GLM, n_params: int) -> AbstractSolver:
    if not model.penalty.smooth:
        return ProximalGradient()
    return Newton() if n_params <= _NEWTON_PARAMS else LBFGS()


def _features_like(reader: Reader) -> Any:
    """A row of the features, without its values."""
    structure, widths, dtype, _ = reader.shape
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct((1, w), dtype) for w in widths])


def _sample(model: GLM, reader: Reader, found: Survey) -> DenseProblem:
    """The problem of the sample, in the coordinates and with the classes of all rows."""
    structure, widths, _, _ = reader.shape
    n_classes = len(found.class_weights)
    coordinates = _coordinates(
        found.centre, found.deviation, model.penalty, n_classes, structure, widths
    )
    columns = found.X - found.centre, found.y, found.weight / found.weight.sum()
    X, y, weight = pad_rows(*columns, at_least=found.room)
    rows = map(jax.numpy.asarray, (X, y, weight, found.class_weights > 0))
    return DenseProblem.assembled(model, *rows, coordinates)


def _optimum_of_sample(model: GLM, found: Survey, sample: DenseProblem) -> Optional[GLMParams]:
    """Where the sample is fitted best, if it has an optimum and all the classes."""
    missing = (found.class_weights > 0) & (np.bincount(found.y, minlength=len(found.class_weights)) == 0)
    if missing.any():
        return None
    structure, widths = sample.coordinates.structure, sample.coordinates.widths
    X = jax.tree.unflatten(structure, np.split(np.asarray(sample.X), np.cumsum(widths)[:-1], axis=1))
    solver = Newton() if model.penalty.smooth else ProximalGradient()
    solver = with_default_tol(solver, sample.X.dtype)
    moments = Moments(found.centre, found.deviation)
    result = run_fit(model, X, sample.y, sample.weight, moments, None, solver)
    return result.params if bool(result.status == Status.converged) else None
