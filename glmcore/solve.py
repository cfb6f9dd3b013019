"""``fit``, one jitted loop of solver steps, and ``update``, exactly one of them."""

import dataclasses
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from glmcore.centring import centred_rows, seeing_all
from glmcore.checks import (
    check_data,
    check_features,
    check_model,
    check_params,
    check_penalty,
    check_state,
    tell_of_labels,
    within_range,
)
from glmcore.host_loop import Listeners
from glmcore.identity import Identity, digest_rows
from glmcore.implicit import as_arrays, as_function
from glmcore.jit import inside_program
from glmcore.many import run_many
from glmcore.model import GLM, fit_size
from glmcore.observations import unknown_labels
from glmcore.padding import bucket, pad_rows
from glmcore.params import GLMParams
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty, ElasticNet, Lasso
from glmcore.programs import fit_with_callback, in_dtype, run_fit, run_init_state, run_update
from glmcore.remembering import remembering_last
from glmcore.results import FitResult, SolverState
from glmcore.sharding import on_automatic_mesh, settled_rows
from glmcore.solvers import LBFGS, Newton, ProximalGradient, ProximalNewton
from glmcore.solvers.base import AbstractSolver, check_is_solver, check_solver, with_default_tol
from glmcore.solvers.newton import HESSIAN_ROWS
from glmcore.solvers.quadratic import MOST_FACTORED
from glmcore.tree import as_count, is_concrete, is_mapped_only, sample_dtype

#: Parameters (p K + K) up to which a step with the factorised Hessian may be the fastest way, and
#: the multiplications that its Hessian may cost: so many, or so many products with the features.
_NEWTON_PARAMS = 128
_NEWTON_MULTIPLICATIONS, _NEWTON_PRODUCTS = 2**21, 5
#: Parameters up to which a step on a working set is; up to twice as many from so many rows times
#: parameters.
_WORKING_SET_PARAMS, _WORKING_SET_NUMBERS = 256, 2**23


def default_solver(
    penalty: AbstractPenalty,
    n_params: Optional[int] = None,
    n_rows: Optional[int] = None,
    *,
    algorithm: Optional[str] = None,
    path: bool = False,
) -> AbstractSolver:
    """The solver that ``solver=None`` stands for.

    Parameters
    ----------
    penalty : AbstractPenalty
    n_params, n_rows : int, optional
        Size of the fit: d = p K + K, and n.  Without the first the solver is that of
        :func:`update`, without the second rows do not count.
    algorithm : str, optional
        Name of the algorithm of a state.
    path : bool, default False
        Whether the fits begin where others ended.

    Returns
    -------
    AbstractSolver

    Raises
    ------
    TypeError, ValueError
        If ``penalty`` is none, or a size no positive whole number.

    Notes
    -----
    Smooth penalties: LBFGS, but Newton for a fit of at most 128 parameters, d = p K + K, whose
    Hessian costs at most 2^21 multiplications or five products with the features: m d^2, with m
    rows, at most 8192 of n, beside n d.  Others: ProximalGradient, but ProximalNewton for Lasso,
    ElasticNet and GroupLasso with at most 256 parameters, and for the first two where many rows
    meet at most 512 (rows times parameters at least 2^23).  For a ``path`` of strengths
    ProximalNewton, but ProximalGradient for GroupLasso with more than 1024 parameters.  For a
    state the one of its ``algorithm``, if that is one of these.  Rows count as those of a small
    matrix are padded (:func:`pad_rows`).

    Examples
    --------
    >>> import glmcore
    >>> type(glmcore.default_solver(glmcore.Ridge())).__name__
    'LBFGS'
    >>> type(glmcore.default_solver(glmcore.Ridge(), n_params=15)).__name__
    'Newton'
    >>> type(glmcore.default_solver(glmcore.Ridge(), n_params=123, n_rows=5000)).__name__
    'LBFGS'
    >>> type(glmcore.default_solver(glmcore.Lasso(), n_params=15, n_rows=10**6)).__name__
    'ProximalNewton'
    """
    if not isinstance(penalty, AbstractPenalty):
        raise TypeError(f"penalty must be an instance such as glmcore.Ridge(0.1), found {penalty!r}")
    n_params = None if n_params is None else as_count(n_params, "n_params")
    usual, by_hessian = (LBFGS, Newton) if penalty.smooth else (ProximalGradient, ProximalNewton)
    by_entry = isinstance(penalty, (Lasso, ElasticNet))
    # Fits whose rows are padded to the same number have the same solver, and so one program.
    n_rows = None if n_rows is None else bucket(as_count(n_rows, "n_rows"), row_bytes=0)
    if algorithm in (usual.__name__, by_hessian.__name__):
        pays = algorithm == by_hessian.__name__
    elif n_params is None:
        pays = False
    elif penalty.smooth:
        pays = n_params <= _NEWTON_PARAMS and _affords_hessian(n_params, n_rows)
    elif path:
        pays = by_entry or n_params <= MOST_FACTORED
    elif n_params <= _WORKING_SET_PARAMS:
        pays = isinstance(penalty, AbstractScalablePenalty)
    else:
        many = n_rows is not None and n_rows * n_params >= _WORKING_SET_NUMBERS
        pays = many and by_entry and n_params <= 2 * _WORKING_SET_PARAMS
    return by_hessian() if pays else usual()


def solver_for_outliers(solver: Any, X: PyTree) -> AbstractSolver:
    """The solver with a tolerance low enough for features of which a few values lie far out.

    :func:`fit` sees to that by itself where it has the features at hand; inside a ``jax.jit`` of your own, where
    they are traced, it cannot.

    Parameters
    ----------
    solver : AbstractSolver
        Without a tolerance that of the dtype of X.
    X : array of shape (n, p), or a pytree of these
        Features, not traced; looked at where NumPy reads them.

    Returns
    -------
    AbstractSolver
        With a ``tol`` of at most 1e-3 / r, if r is above 5000: how many times the spread of nearly all values the
        standard deviation of a feature is.

    Raises
    ------
    ValueError, TypeError
        If X is traced or no features, or ``solver`` is none.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X = np.linspace(0, 4, 100)[:, None]
    >>> float(glmcore.solver_for_outliers(glmcore.LBFGS(tol=1e-5), X).tol)
    1e-05
    >>> X[7] = -999999.0
    >>> float(glmcore.solver_for_outliers(glmcore.LBFGS(tol=1e-5), X).tol)
    9...e-09
    """
    check_is_solver(solver)
    leaves = check_features(X)
    if not is_concrete(X):
        raise ValueError("X must be an array at hand, or a pytree of these, found a traced one")
    return seeing_all(with_default_tol(solver, sample_dtype(leaves)), X, len(leaves[0]))


def _affords_hessian(n_params: int, n_rows: Optional[int]) -> bool:
    if n_rows is None:
        return True
    multiplications = min(n_rows, HESSIAN_ROWS) * n_params**2
    return multiplications <= max(_NEWTON_MULTIPLICATIONS, _NEWTON_PRODUCTS * n_rows * n_params)


@remembering_last
def _usual_solver(model, size, algorithm, dtype, x64):
    # One a dtype: JAX remembers, by its identity, a NumPy array that it met as a constant in
    # float64, and then refuses it in float32.
    return default_solver(model.penalty, *size, algorithm=algorithm)


@on_automatic_mesh
def fit(
    model: GLM,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    init_params: Optional[GLMParams | tuple] = None,
    sample_weight: Any = None,
    callback: Any = None,
    retry: Any = True,
) -> FitResult:
    r"""Minimise the objective of ``model``.

    Compiled once per types, dtypes and shapes: other data, weights, strengths, tolerances or
    iteration limits run the same program, and so do other numbers of rows up to the next
    bucket (:func:`pad_rows`).  Works under ``jax.jit`` and ``jax.vmap``, without buckets: there
    fits with a smooth penalty and the default solver (or LBFGS) go side by side, in chunks that
    bound the memory, and fits that share X share its products; others, those without a penalty whose
    weights differ, and those with an X of their own of fewer rows than features, go one after the other.

    Where a few values of a feature lie thousands of times as far out as all the others (a code for missing
    values, say), the tolerance is lowered: to their scale the others would hardly count.  Seen in features at
    hand, not in traced ones, for which there is :func:`solver_for_outliers`.

    Under ``jax.grad`` and its kin ``params`` and ``objective`` are functions of the strengths, X and
    the weights, by the implicit function theorem: with t what moves and v the parameters in which
    the objective F is smooth (not those that a sparse penalty holds at zero),

    .. math:: \frac{dv}{dt} = -\left(\frac{\partial^2 F}{\partial v^2}\right)^{-1}
              \frac{\partial^2 F}{\partial v \, \partial t}.

    This takes about as long as the fit and is as exact as the answer is near the optimum.  Nothing
    moves along directions to which F is blind.

    Parameters
    ----------
    model : GLM
        What to fit.
    X : array of shape (n, p), or a pytree of these
        Features.
    y : int array of shape (n,)
        Class indices from 0 to K - 1.
    solver : AbstractSolver, optional
        Default: :func:`default_solver`, which goes by the penalty and the size of the fit.
    init_params : GLMParams or (coef, intercept), optional
        Where to start; default the null model, which also takes the place of a worse start.
    sample_weight : array of shape (n,), optional
        Weights of the rows, not negative.  Rows of weight 0 may hold NaN, but not where X or
        the weights are traced.
    callback : callable, or a list or tuple of callables, optional
        Called with a :class:`FitProgress` about ten times a second and once at the end, such as
        :class:`Progress`; one with an attribute ``every`` after at most so many steps.  If it raises
        ``StopIteration``, the fit ends there, with what it has and the status ``stopped``; of several
        processes all have to, at the same step.  Or a :class:`Checkpoint`.  The compiled program holds no
        trace of it.
    retry : bool, default True
        Whether those of many fits that have trouble side by side are fitted again, each alone.
        Inside ``jax.jit`` the program of a single fit is compiled for that with every ``vmap``,
        and is about half of it; without it their status is ``running``, and they are yours to fit.

    Returns
    -------
    FitResult
        Parameters, status, steps, objective and optimality residual.  Nothing is raised for
        what the numbers in X turn out to be: look at ``status``.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, a strength or weight is bad, or the solver does not
        handle the penalty.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> result = glmcore.fit(glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1)), X, y)
    >>> glmcore.Status[result.status]
    'converged'
    >>> result.params.coef.round(3)
    Array([[-0.372,  0.372]], dtype=float32)

    How the optimum moves with the strength:

    >>> def coef(strength):
    ...     model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(strength))
    ...     return glmcore.fit(model, X, y).params.coef
    >>> print(jax.jacobian(coef)(0.1).round(2))
    [[ 0.64 -0.64]]
    """
    data, how = (model, X, y, sample_weight), (solver, init_params)
    if is_concrete((data, how)) or (is_mapped_only((data, how)) and not inside_program()):
        return _fit(*data, *how, callback, retry)
    result = _fit(*_without_derivatives(data), *_without_derivatives(how), callback, retry)
    found = (result.params, result.objective), result.state.coordinates
    params, objective = as_function(*found, *as_arrays((model, X, y, within_range(sample_weight))))
    return dataclasses.replace(result, params=params, objective=objective)


def _without_derivatives(tree: PyTree) -> PyTree:
    """Traced arrays without their derivatives: concrete ones, if there was no more to them."""

    def fixed(x: Any) -> Any:
        if not isinstance(x, jax.core.Tracer):
            return x
        # Of a Python number it is that number, of which each would have its own program.
        return jnp.asarray(jax.lax.stop_gradient(x), x.dtype)

    return jax.tree.map(fixed, tree)


def _fit(model, X, y, sample_weight, solver, init_params, callback, retry) -> FitResult:
    if not isinstance(retry, (bool, np.bool_)):
        raise TypeError(f"retry must be True or False, found {retry!r}")
    listeners = Listeners.of(callback)
    X, y, weight = check_data(model, X, y, sample_weight)
    chosen = solver is not None
    if not chosen:
        solver = _usual_solver(model, fit_size(model, X), None, weight.dtype, jax.config.jax_enable_x64)
    solver = _fitting_solver(model, solver, *_features(X))
    if init_params is not None:
        init_params = check_params(model, init_params, X)
    if listeners and not is_concrete((model, X, y, weight, init_params, solver)):
        raise ValueError("callback cannot be called from inside jax.jit or jax.vmap")
    identity = None if listeners.checkpoint is None else _identity(model, solver, X, y, weight)
    X, y, weight = settled_rows(X, y, weight)
    if not is_concrete((model, X, y, weight, init_params, solver)):
        solver = seeing_all(solver, X, len(y))
        side_by_side = isinstance(solver, LBFGS) or (model.penalty.smooth and not chosen)
        result = run_many(model, X, y, weight, init_params, solver, side_by_side, retry)
        return tell_of_labels(result, y, weight, model.observations.n_outputs)
    n_rows = len(y)
    rows = centred_rows(X, y, weight, model.fit_intercept)
    del X, y, weight  # what the fit makes of them is all that it holds
    solver = seeing_all(solver, rows[0], n_rows, rows[-1])
    if not listeners:
        return run_fit(model, *rows, init_params, solver)
    return fit_with_callback(model, *rows, init_params, solver, listeners, identity)


@on_automatic_mesh
def init_state(
    model: GLM,
    params: GLMParams | tuple,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> SolverState:
    """State for :func:`update`: freezes centre and scale of this data.  Of a feature that is
    constant here the size stands in for the scale, so that it can be learnt when it varies.

    ``solver=None`` is LBFGS for smooth penalties, ProximalGradient for the others.  Parameters
    and errors are those of :func:`fit`, with ``params`` the starting point.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> params = model.initialize_params(X, y)
    >>> state = glmcore.init_state(model, params, X, y)
    >>> params, state = glmcore.update(model, params, state, X, y)
    >>> int(state.n_iter)
    1
    """
    check_model(model)
    return run_init_state(*_checked(model, params, X, y, solver, sample_weight))


@on_automatic_mesh
def update(
    model: GLM,
    params: GLMParams | tuple,
    state: SolverState,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> tuple[GLMParams, SolverState]:
    """One step of the solver on this batch; the objective is batch mean plus penalty.

    :class:`Optax` looks at the batch once: its state tells the objective before the step.

    ``params`` stay on the user's scale.  The batch may lack classes and may have any number of
    rows (compiled once a bucket, see :func:`pad_rows`).  A batch whose loss is not finite (X is
    not, or inside ``jax.jit``, where nothing can be refused, a label is of no class), or whose step
    would lead to parameters that are not, teaches nothing: all stays as it was, and the objective
    of the state tells.  Parameters and errors are those of :func:`fit`, an example is in :func:`init_state`.
    """
    check_model(model)
    found = getattr(state, "algorithm", type(state).__name__)
    rows = _checked(model, params, X, y, solver, sample_weight, found)
    model, params, X, y, weight, solver = rows
    if not isinstance(state, SolverState) or found != type(solver).__name__:
        raise ValueError(
            f"state must come from init_state with the solver {type(solver).__name__}, found {found}"
        )
    check_state(model, state.coordinates, X)
    return run_update(model, params, state, X, y, weight, solver)


_digest_rows = jax.jit(digest_rows, static_argnames="ordered")


def _identity(model: GLM, solver: AbstractSolver, X: PyTree, y: Any, weight: Any) -> Identity:
    # The order of the rows too, for a solver may keep numbers of each of them.
    leaves = jax.tree.leaves(X)
    shape = (leaves[0].shape[0], sum(leaf.shape[1] for leaf in leaves), leaves[0].dtype)
    digest = jax.device_get(_digest_rows(X, y, weight, ordered=True))
    return Identity.of(*in_dtype((model, solver), weight.dtype), shape, digest)


def _checked(model, params, X, y, solver, sample_weight, algorithm=None):
    X, y, weight = check_data(model, X, y, sample_weight)
    if solver is None:
        solver = _usual_solver(model, (), algorithm, weight.dtype, jax.config.jax_enable_x64)
    solver = _fitting_solver(model, solver, *_features(X))
    if not is_concrete(y):  # NaN, as is to JAX what is read outside an array
        unknown = unknown_labels(y, weight, model.observations.n_outputs)
        weight = jnp.where(unknown, jnp.nan, weight)
    params = check_params(model, params, X)
    return model, params, *pad_rows(*settled_rows(X, y, weight)), solver


@remembering_last
def _fitting_solver(model, solver, structure, widths, dtype):
    """The solver with its tolerance, if it and the penalty fit each other and the features."""
    check_solver(solver, model.penalty)
    rows = [jax.ShapeDtypeStruct((1, width), dtype) for width in widths]
    check_penalty(model, jax.tree.unflatten(structure, rows))
    return with_default_tol(solver, dtype)


def _features(X: PyTree) -> tuple[Any, tuple[int, ...], Any]:
    """Structure, widths and dtype of the features."""
    leaves, structure = jax.tree.flatten(X)
    return structure, tuple(leaf.shape[1] for leaf in leaves), leaves[0].dtype
