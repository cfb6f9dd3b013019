"""Fits along a path of strengths, each begun where the last one ended."""

import dataclasses
import numbers
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from glmcore.centring import centred_rows, seeing_all
from glmcore.checks import check_data, check_model, check_penalty, tell_of_labels
from glmcore.jit import quick_jit
from glmcore.model import GLM, fit_size
from glmcore.params import GLMParams
from glmcore.path_programs import Answers, Reached, run_null, run_piece
from glmcore.penalties import AbstractPenalty, ElasticNet, GroupLasso, Lasso, Ridge
from glmcore.sharding import on_automatic_mesh
from glmcore.solve import default_solver
from glmcore.solvers import ProximalNewton
from glmcore.solvers.base import AbstractSolver, check_solver, with_default_tol
from glmcore.status import Status, has_converged, tally
from glmcore.tree import as_count, is_at_hand, is_concrete, is_real

_PENALTIES = (Ridge, Lasso, ElasticNet, GroupLasso)
#: A path of Ridge begins at so many times the largest strength that a Lasso has a use for.
_RIDGE_START = 1000
#: Features and entries that working sets are rounded to; each pair is one program.
_FEATURES = (32, 256, 2048)
_ENTRIES = (64, 256, 1024, 2048)
#: Bytes of X up to which a pass over all features costs no more than one over a few.
_SMALL_BYTES = 2**20
#: Fewest strengths of a program.
_FEWEST = 16
#: How much larger than what is in use a working set is.
_AHEAD = 1.5


class PathResult(eqx.Module):
    """Fits along a path, the first axis of every array.

    Parameters
    ----------
    strengths : array of shape (L,)
        What the penalty's own strength was multiplied by.
    params : GLMParams
        coef (L, p, K), or a pytree of these, and intercept (L, K), on the user's scale.
    objective : array of shape (L,)
        Weighted mean negative log-likelihood plus penalty.
    optimality : array of shape (L,)
        Optimality (KKT) residual over all features, relative to the yardstick of :class:`SolverState`.
    n_iter : int array of shape (L,)
        Steps of the solver.
    status : Status
        How each fit ended; ``jax.tree.map(lambda s: s[i], status)`` is one of them.
    nonzeros : int array of shape (L,)
        How many coefficients are not zero.
    """

    strengths: Float[Array, "..."]
    params: GLMParams
    objective: Float[Array, "..."]
    optimality: Float[Array, "..."]
    n_iter: Int[Array, "..."]
    status: Status
    nonzeros: Int[Array, "..."]

    @property
    def converged(self) -> Array:
        """Whether each answer is within ``tol``."""
        return has_converged(self.status)

    def __repr__(self) -> str:
        if not is_at_hand(self) or not self.strengths.size:
            return super().__repr__()
        strengths, nonzeros = np.asarray(self.strengths), np.asarray(self.nonzeros)
        return (
            f"PathResult({strengths.size} fits, strengths from {strengths.max():.3g} to "
            f"{strengths.min():.3g}: {tally(self.status)}; {nonzeros.min()} to {nonzeros.max()} nonzeros)"
        )


@on_automatic_mesh
def regularization_path(
    model: GLM,
    X: PyTree,
    y: Any,
    strengths: Any = None,
    *,
    n_strengths: int = 100,
    min_ratio: float = 1e-3,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> PathResult:
    r"""Minimise the objective of ``model`` with its penalty multiplied by each of ``strengths``.

    Each fit begins where that of the next larger strength ended, on the features whose gradients
    say that they matter; those left out are checked at every strength, so that the optimality
    residual is that of the whole problem and each answer is that of :func:`fit`.  Working sets
    are rounded, so that there are few programs.  Under ``jax.jit`` and ``jax.vmap`` all features
    stay in.

    Parameters
    ----------
    model : GLM
        With the penalty Ridge, Lasso, ElasticNet or GroupLasso, whose own strengths (one an entry,
        say) are multiplied.
    X : array of shape (n, p), or a pytree of these
        Features.
    y : int array of shape (n,)
        Class indices from 0 to K - 1.
    strengths : array of shape (L,), optional
        Positive factors in any order.  Default: ``n_strengths`` of them, evenly spaced in the
        logarithm, from the least one at which all penalised coefficients are zero (for Ridge, which
        has none, 1000 times that of the Lasso) to ``min_ratio`` times that.
    n_strengths : int, default 100
        How many strengths there are where none are given.
    min_ratio : float, default 1e-3
        The smallest of them over the largest, between 0 and 1.
    solver : AbstractSolver, optional
        Default: :func:`default_solver` for a path.
    sample_weight : array of shape (n,), optional
        Weights of the rows, not negative.

    Returns
    -------
    PathResult
        In the order of ``strengths``.

    Raises
    ------
    ValueError, TypeError
        As :func:`fit`, and if the strengths are bad or the penalty has none.

    References
    ----------
    Tibshirani et al. (2012), "Strong rules for discarding predictors in lasso-type problems".

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Lasso(1.0))
    >>> path = glmcore.regularization_path(model, X, y, n_strengths=4, min_ratio=0.1)
    >>> path.strengths.round(3)
    Array([0.25 , 0.116, 0.054, 0.025], dtype=float32)
    >>> path.nonzeros
    Array([0, 2, 2, 2], dtype=int32)
    """
    check_model(model)
    _check_penalty(model.penalty)
    if strengths is None:
        n_strengths = as_count(n_strengths, "n_strengths")
    strengths = _checked_strengths(strengths, min_ratio)
    X, y, weight = check_data(model, X, y, sample_weight)
    check_penalty(model, X)
    path = _Path.of(model, X, y, weight, solver)
    if strengths is None:
        ratios = np.geomspace(1, min_ratio, n_strengths) if n_strengths > 1 else np.ones(1)
        strengths = path.strengths(ratios)
    strengths = jnp.asarray(strengths, weight.dtype)
    order, falling = _falling(strengths)
    answers = path.walk(falling, until=strengths.size).answers
    result = _result(strengths, order, answers, jax.tree.map(lambda x: x.shape[1], X))
    return tell_of_labels(result, y, weight, model.observations.n_outputs)


class _Path(eqx.Module):
    """What all pieces of a path share."""

    model: GLM
    data: tuple
    solver: AbstractSolver

    @classmethod
    def of(cls, model: GLM, X: PyTree, y: Any, weight: Any, solver: Any) -> "_Path":
        if solver is None:
            solver = default_solver(model.penalty, *fit_size(model, X), path=True)
        check_solver(solver, model.penalty)
        solver = with_default_tol(solver, weight.dtype)
        rows = centred_rows(X, y, weight, model.fit_intercept)
        return cls(model, rows, seeing_all(solver, rows[0], len(y), rows[-1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Features and classes."""
        X = self.data[0]
        n_features = sum(leaf.shape[1] for leaf in jax.tree.leaves(X))
        return n_features, self.model.observations.n_outputs

    def screened(self, strengths: Array) -> bool:
        """Whether features may be left out: they are the host's choice, and each is penalised by
        itself."""
        penalty, coef = self.model.penalty, self._coef()
        return (
            not penalty.smooth
            and is_concrete((self.model, self.data, self.solver, strengths))
            and jax.eval_shape(penalty.on_features, coef, np.zeros(1, np.int32)) is not None
        )

    def strengths(self, ratios: Float[np.ndarray, " L"]) -> Float[Array, " L"]:
        """Those in these ratios to the first of a path: with it all penalised coefficients are zero."""
        penalty = self.model.penalty
        if isinstance(penalty, Ridge):
            model = dataclasses.replace(self.model, penalty=Lasso(penalty.strength))
            lasso = _Path(model, self.data, with_default_tol(ProximalNewton(), self.data[2].dtype))
            return lasso.strengths(_RIDGE_START * ratios)
        zeros = np.zeros(_rounded_length(ratios.size), self.data[2].dtype)
        start, bound = run_null(self.model, *self.data, zeros)
        error = 4 * jnp.finfo(bound.dtype).eps
        if not self._nothing_is_free():  # the rest is fitted by the program of the path itself
            start, error = self.walk(zeros + bound, until=1), 100 * self.solver.tol
        return _largest(start.pressure, error, np.asarray(ratios, bound.dtype))

    def _nothing_is_free(self) -> bool:
        """Whether zero coefficients leave the null model, for all that is known here."""
        if self.model.inverse_link is not None or not is_concrete(self.model.penalty):
            return False
        with jax.ensure_compile_time_eval():  # inside a jit too
            return bool(_holds_all(self.model.penalty, self._coef()))

    def _coef(self) -> PyTree[Float[np.ndarray, "_ K"]]:
        """Coefficients of one."""
        n_outputs = self.model.observations.n_outputs
        return jax.tree.map(lambda x: np.ones((x.shape[1], n_outputs), x.dtype), self.data[0])

    def walk(self, strengths: Float[Array, " L"], until: int) -> Reached:
        """Answers at the first ``until`` strengths, which fall."""
        reached, _ = run_null(self.model, *self.data, strengths)
        path, until = (self.model, *self.data, strengths), np.asarray(until, np.int32)
        if not self.screened(strengths):
            return run_piece(*path, reached, until, None, self.solver, None)
        n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.data[0]))
        working_set = _WorkingSet(*self.shape, large=n_bytes > _SMALL_BYTES)
        while int(reached.count) < until:
            working_set = working_set.grown(reached, strengths)
            solver = working_set.limit(self.solver)
            reached = run_piece(
                *path, reached, until, working_set.index, solver, working_set.room
            )
        return reached


def _rounded_length(n_strengths: int) -> int:
    """A power of two, so that there are few programs."""
    return max(_FEWEST, 1 << (n_strengths - 1).bit_length())


@quick_jit
def _falling(strengths: Float[Array, " L"]) -> tuple[Int[Array, " L"], Float[Array, " M"]]:
    """Where the largest strengths are, and these, the last one repeated."""
    order = jnp.argsort(-strengths)
    more = _rounded_length(strengths.size) - strengths.size
    return order, jnp.pad(strengths[order], (0, more), mode="edge")


@quick_jit
def _holds_all(penalty: AbstractPenalty, gradient: PyTree[Float[Array, "_ K"]]) -> Bool[Array, ""]:
    """Whether the penalty withstands such a gradient in every coefficient."""
    pressure = jax.tree.leaves(penalty.pressure(gradient))
    return jnp.stack([jnp.isfinite(part).all() for part in pressure]).all()


@quick_jit
def _largest(
    pressure: Float[Array, "p K"], error: Any, ratios: Float[Array, " L"]
) -> Float[Array, " L"]:
    """The strengths in these ratios to one that withstands a pressure known up to a relative error."""
    largest = (1 + error) * jnp.max(jnp.where(jnp.isfinite(pressure), pressure, 0))
    # Where nothing is penalised, or no feature has a use, any strength will do.
    return jnp.where(largest > 0, largest, 1).astype(ratios.dtype) * ratios


@dataclasses.dataclass(frozen=True)
class _WorkingSet:
    """Features that stay in and entries that may differ from zero, both rounded up.

    ``index`` is None where all features stay in, as they do where X is not ``large``.
    """

    n_features: int
    n_outputs: int
    large: bool
    index: Optional[np.ndarray] = None
    size: int = 0
    entries: int = 0

    def grown(self, reached: Reached, strengths: Array) -> "_WorkingSet":
        """The working set for what comes next, not smaller than before."""
        coef, pressure = np.asarray(reached.params.coef), np.asarray(reached.pressure)
        needed = (coef != 0) | (pressure > np.asarray(strengths)[int(reached.count)])
        score = np.where(needed.any(axis=1), np.inf, pressure.max(axis=1))
        sizes = _FEATURES if self.large else ()
        size = self._rounded(int(needed.any(axis=1).sum()), sizes, self.n_features)
        size = max(size, self.size)
        most = (size + 1) * self.n_outputs
        entries = self._rounded(int(needed.sum()) + self.n_outputs, _ENTRIES, most)
        entries = max(min(entries, _ENTRIES[-1]), min(self.entries, most))
        index = None
        if size < self.n_features:
            index = np.argsort(-score, kind="stable")[:size].astype(np.int32)
        return dataclasses.replace(self, index=index, size=size, entries=entries)

    @property
    def room(self) -> Optional[int]:
        """Entries, a share of which may be filled before the working set has to grow."""
        full = self.entries in (_ENTRIES[-1], (self.size + 1) * self.n_outputs)
        return None if full else self.entries

    def limit(self, solver: AbstractSolver) -> AbstractSolver:
        if not isinstance(solver, ProximalNewton):
            return solver
        return dataclasses.replace(solver, capacities=(self.entries,))

    @staticmethod
    def _rounded(count: int, sizes: tuple, most: int) -> int:
        return next((s for s in sizes if _AHEAD * count <= s < most), most)


def _check_penalty(penalty: AbstractPenalty) -> None:
    if not isinstance(penalty, _PENALTIES):
        allowed = ", ".join(kind.__name__ for kind in _PENALTIES)
        raise ValueError(
            f"regularization_path needs a penalty with a strength ({allowed}), "
            f"found {type(penalty).__name__}"
        )
    if is_concrete(penalty.strength) and not any(np.any(leaf) for leaf in jax.tree.leaves(penalty.strength)):
        raise ValueError(f"regularization_path multiplies the strength of the penalty, which is 0 in {penalty!r}")


def _checked_strengths(strengths: Any, min_ratio: Any) -> Any:
    if strengths is None:
        if not isinstance(min_ratio, numbers.Real) or not 0 < min_ratio < 1:
            raise ValueError(f"min_ratio must lie between 0 and 1, found {min_ratio!r}")
        return None
    try:
        array = strengths if hasattr(strengths, "dtype") else np.asarray(strengths, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"strengths must be real numbers, found {strengths!r}") from error
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"strengths must be 1-D and not empty, found shape {array.shape}")
    if not is_real(array):
        raise TypeError(f"strengths must be real numbers, found dtype {array.dtype}")
    if is_concrete(array):
        values = np.asarray(array)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise ValueError(
                f"strengths must be finite and positive, found {values[bad][0]} at index {bad.argmax()}"
            )
    return array


@quick_jit
def _result(
    strengths: Float[Array, " L"], order: Int[Array, " L"], answers: Answers, widths: PyTree
) -> PathResult:
    """The answers, which are in this ``order``, in that of ``strengths``; ``widths`` mirror X."""
    answers = jax.tree.map(lambda leaf: leaf[jnp.argsort(order)], answers)
    widths, structure = jax.tree.flatten(widths)
    cuts = np.cumsum(widths)[:-1]
    coef = jax.tree.unflatten(structure, jnp.split(answers.coef, cuts, axis=1))
    return PathResult(
        strengths=strengths,
        params=GLMParams(coef, answers.intercept),
        objective=answers.objective,
        optimality=answers.optimality,
        n_iter=answers.n_iter,
        status=answers.status,
        nonzeros=jnp.sum(answers.coef != 0, axis=(1, 2), dtype=jnp.int32),
    )
