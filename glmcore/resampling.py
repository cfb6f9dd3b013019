"""Bootstrap and jackknife: many fits of one model to reweighted rows, in one call."""

from collections.abc import Callable
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from glmcore.checks import check_data, check_penalty
from glmcore.jit import quick_jit
from glmcore.model import GLM
from glmcore.observations import check_key
from glmcore.params import GLMParams
from glmcore.sharding import on_automatic_mesh
from glmcore.solve import fit
from glmcore.solvers.base import AbstractSolver
from glmcore.status import Status, has_converged, tally
from glmcore.tree import as_count, is_at_hand, is_concrete

#: Numbers in the weights of the fits that go side by side.
_WEIGHTS_AT_ONCE = 2**26


class _Refits(eqx.Module):
    """The fit to all rows, and fits to some of them."""

    estimate: GLMParams
    params: GLMParams
    status: Status

    @property
    def converged(self) -> Array:
        """Whether each answer is within ``tol``, one a fit."""
        return has_converged(self.status)

    def _over_fits(self, reduce: Callable, of: Any, *trees: PyTree) -> PyTree:
        """``reduce(value, kept, ...)`` of the parameters, or what ``of`` makes of them, over the fits
        that are ``kept``; NaN if they are less than two."""
        values, fits = jax.vmap(_statistic(of))(self.params), self.converged
        if of is None:  # where a class is missing, its parameters stand for a probability of zero
            whole = self.status == Status.converged
            fits = jnp.where(jnp.any(whole), whole, fits)

        def one(value, *others):
            kept = fits.reshape(-1, *[1] * (value.ndim - 1))
            return jnp.where(jnp.sum(fits) > 1, reduce(value, kept, *others), jnp.nan)

        return jax.tree.map(one, values, *trees)

    def __repr__(self) -> str:
        if not is_at_hand(self):
            return super().__repr__()
        return f"{type(self).__name__}({self.converged.size} fits: {tally(self.status)})"


def _statistic(of: Any) -> Callable[[GLMParams], PyTree]:
    """What is asked of the parameters of a fit, by default these."""
    if not (of is None or callable(of)):
        raise TypeError(f"of must be a function of the GLMParams of one fit, found {of!r}")
    return of or (lambda params: params)


class BootstrapResult(_Refits):
    """Fits to resampled rows, the first axis of ``params`` and ``status``.

    Fits that have not converged are left out of what the methods return, which is NaN where less
    than two are left.  A resample that lacks a class gives it a probability of zero, with coefficients of 0
    and the least intercept there is; from errors and intervals of the parameters themselves it is left out.

    Parameters
    ----------
    estimate : GLMParams
        The fit to the rows as they are.
    params : GLMParams
        coef (B, p, K), or a pytree of these, and intercept (B, K), on the user's scale.
    status : Status
        How each fit ended.
    """

    def standard_error(self, of: Any = None) -> PyTree:
        """Standard deviation over resamples of the parameters, or of what ``of`` makes of them.

        Parameters
        ----------
        of : callable, optional
            From the GLMParams of one fit to an array or a pytree of arrays: probabilities, say,
            ``lambda params: jnp.exp(model.log_proba(params, X))``.

        Returns
        -------
        pytree of arrays
            As ``of`` makes it; by default GLMParams.
        """
        return self._over_fits(lambda value, kept: jnp.std(value, axis=0, ddof=1, where=kept), of)

    def percentile_interval(self, level: float = 0.95, of: Any = None) -> tuple[PyTree, PyTree]:
        """The quantiles ``(1 - level) / 2`` and ``(1 + level) / 2`` over resamples.

        Parameters
        ----------
        level : float, default 0.95
            Share of the resamples between the two, from 0 to 1.
        of : callable, optional
            As in :meth:`standard_error`.

        Returns
        -------
        low, high : pytree of arrays

        Raises
        ------
        ValueError
            If ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, found {level!r}")

        def quantile(share):
            def one(value, kept):
                return jnp.nanquantile(jnp.where(kept, value, jnp.nan), share, axis=0)

            return self._over_fits(one, of)

        return quantile((1 - level) / 2), quantile((1 + level) / 2)


class JackknifeResult(_Refits):
    """Fits that each leave out a row or a block of rows, the first axis of ``params`` and
    ``status``.

    Fits that have not converged are left out of what the methods return, which is NaN where less
    than two are left, and from errors and biases of the parameters themselves those without the last row of
    a class.

    Parameters
    ----------
    estimate : GLMParams
        The fit to all rows.
    params : GLMParams
        coef (m, p, K), or a pytree of these, and intercept (m, K), on the user's scale.
    status : Status
        How each fit ended.
    """

    def standard_error(self, of: Any = None) -> PyTree:
        r"""Standard error :math:`\sqrt{\frac{m-1}{m} \sum_i (\theta_i - \bar\theta)^2}` of the
        parameters, or of what ``of`` makes of them, as in
        :meth:`BootstrapResult.standard_error`."""

        def error(value, kept):
            m = jnp.sum(kept).astype(value.dtype)
            return jnp.sqrt(m - 1) * jnp.std(value, axis=0, where=kept)

        return self._over_fits(error, of)

    def bias(self, of: Any = None) -> PyTree:
        r"""Estimate :math:`(m-1) (\bar\theta - \hat\theta)` of the bias of the fit to all rows."""
        whole = _statistic(of)(self.estimate)

        def bias(value, kept, estimate):
            m = jnp.sum(kept).astype(value.dtype)
            return (m - 1) * (jnp.mean(value, axis=0, where=kept) - estimate)

        return self._over_fits(bias, of, whole)


@on_automatic_mesh
def bootstrap(
    model: GLM,
    X: PyTree,
    y: Any,
    *,
    key: Any,
    n_resamples: int = 1000,
    groups: Any = None,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> BootstrapResult:
    """Fit ``model`` to rows drawn with replacement, ``n_resamples`` times.

    A resample is a weight of the rows, how often each was drawn, so that all fits share X; each
    begins at the fit to the rows as they are, and memory is bounded.

    Parameters
    ----------
    model : GLM
        What to fit.
    X : array of shape (n, p), or a pytree of these
        Features.
    y : int array of shape (n,)
        Class indices from 0 to K - 1.
    key : PRNG key
        Decides what is drawn.
    n_resamples : int, default 1000
        How many fits, B.
    groups : array of shape (n,), optional
        Labels of blocks of rows (subjects, trials, stretches of time), which are drawn as wholes:
        as many of them as there are.  Default: every row for itself.
    solver : AbstractSolver, optional
        Default: that of :func:`fit`.
    sample_weight : array of shape (n,), optional
        Weights of the rows, multiplied by how often they are drawn.

    Returns
    -------
    BootstrapResult
        All fits, with ``standard_error`` and ``percentile_interval``.

    Raises
    ------
    ValueError, TypeError
        As :func:`fit`, and if ``n_resamples`` or ``groups`` are bad.

    References
    ----------
    Efron & Tibshirani (1993), "An Introduction to the Bootstrap".

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X = jnp.linspace(-2, 2, 40)[:, None]
    >>> y = (X[:, 0] + jnp.sin(7 * X[:, 0]) > 0).astype(int)
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.bootstrap(model, X, y, key=jax.random.key(0), n_resamples=50)
    >>> result.params.coef.shape, bool(result.converged.all())
    ((50, 1, 2), True)
    >>> low, high = result.percentile_interval(0.9, of=lambda params: jnp.exp(model.log_proba(params, X[:3])))
    >>> low.shape, bool((low < high).all())
    ((3, 2), True)
    """
    check_key(key)
    n_resamples = as_count(n_resamples, "n_resamples")
    X, y, weight = _checked(model, X, y, sample_weight)
    block, n_blocks = _blocks(groups, weight.size)
    keys = jax.random.split(key, n_resamples)
    return BootstrapResult(*_refit(model, X, y, weight, solver, block, n_blocks, keys, _drawn))


@on_automatic_mesh
def jackknife(
    model: GLM,
    X: PyTree,
    y: Any,
    *,
    groups: Any = None,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> JackknifeResult:
    """Fit ``model`` without each row in turn, or without each block of rows.

    Parameters
    ----------
    model, X, y, solver, sample_weight
        As in :func:`bootstrap`.
    groups : array of shape (n,), optional
        Labels of blocks of rows, each of which is left out as a whole: m of them.  Default: every
        row for itself, m = n.

    Returns
    -------
    JackknifeResult
        All fits, blocks in the order of their labels, with ``standard_error`` and ``bias``.

    Raises
    ------
    ValueError, TypeError
        As :func:`fit`, and if ``groups`` are bad.

    References
    ----------
    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 11.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X = jnp.linspace(-2, 2, 40)[:, None]
    >>> y = (X[:, 0] + jnp.sin(7 * X[:, 0]) > 0).astype(int)
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.jackknife(model, X, y, groups=jnp.arange(40) % 10)
    >>> result.params.coef.shape, bool(result.converged.all())
    ((10, 1, 2), True)
    >>> result.standard_error().coef.shape
    (1, 2)
    """
    X, y, weight = _checked(model, X, y, sample_weight)
    block, n_blocks = _blocks(groups, weight.size)
    left_out = jnp.arange(n_blocks, dtype=jnp.int32)
    return JackknifeResult(*_refit(model, X, y, weight, solver, block, n_blocks, left_out, _all_but))


def _drawn(key: PRNGKeyArray, n_blocks: int) -> Int[Array, " m"]:
    """How often each block is drawn."""
    draws = jax.random.randint(key, (n_blocks,), 0, n_blocks)
    return jnp.zeros(n_blocks, jnp.int32).at[draws].add(1)


def _all_but(left_out: Int[Array, ""], n_blocks: int) -> Int[Array, " m"]:
    return (jnp.arange(n_blocks, dtype=jnp.int32) != left_out).astype(jnp.int32)


def _refit(
    model, X, y, weight, solver, block, n_blocks: int, which, counts: Callable
) -> tuple[GLMParams, GLMParams, Status]:
    """The fit to all rows, and those in which a block counts as often as ``counts`` says of each
    of ``which``."""
    whole = fit(model, X, y, solver=solver, sample_weight=weight).params
    one = _Refit(model, X, y, weight, solver, block, n_blocks, counts, whole)
    at_once = max(1, _WEIGHTS_AT_ONCE // weight.size)
    if which.shape[0] <= at_once:
        return whole, *jax.vmap(one)(which)
    return whole, *_in_parts(one, which, at_once)


class _Refit(eqx.Module):
    """A fit to blocks that count differently, from ``start``."""

    model: GLM
    X: PyTree
    y: Any
    weight: Any
    solver: Optional[AbstractSolver]
    block: Optional[Any]
    n_blocks: int = eqx.field(static=True)
    counts: Callable = eqx.field(static=True)
    start: GLMParams

    def __call__(self, which) -> tuple[GLMParams, Status]:
        weight = _reweighted(self.weight, self.block, self.n_blocks, which, self.counts)
        result = fit(
            self.model, self.X, self.y, solver=self.solver, init_params=self.start, sample_weight=weight
        )
        return result.params, result.status


@quick_jit
def _in_parts(one: _Refit, which, at_once: int) -> tuple[GLMParams, Status]:
    return jax.lax.map(one, which, batch_size=at_once)


@quick_jit
def _reweighted(weight, block, n_blocks: int, which, counts: Callable) -> Float[Array, " n"]:
    times = counts(which, n_blocks).astype(weight.dtype)
    return weight * (times if block is None else times[block])


def _checked(model: GLM, X: PyTree, y: Any, sample_weight: Any) -> tuple[PyTree, Any, Any]:
    X, y, weight = check_data(model, X, y, sample_weight)
    check_penalty(model, X)
    return X, y, weight


def _blocks(groups: Any, n: int) -> tuple[Optional[np.ndarray], int]:
    """Which block each row is in (None: one of its own), and how many there are."""
    if groups is None:
        block, n_blocks = None, n
    else:
        if not is_concrete(groups):
            raise ValueError("groups must be known before jax.jit or jax.vmap trace: they decide how many blocks there are")
        groups = np.asarray(groups)
        if groups.shape != (n,):
            raise ValueError(f"groups must have shape ({n},), one a row of X; found {groups.shape}")
        try:
            if (groups != groups).any():
                raise ValueError("groups must be labels, found NaN")
            labels, block = np.unique(groups, return_inverse=True)
        except TypeError as error:
            raise TypeError(f"groups must be labels of one kind: {error}") from error
        block, n_blocks = block.astype(np.int32), labels.size
    if n_blocks < 2:
        raise ValueError("groups must hold at least two different labels, found one")
    return block, n_blocks
