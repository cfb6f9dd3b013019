"""The model: observations, a link, a penalty and a mask."""

import functools
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, PyTree

from glmcore.coordinates import Coordinates
from glmcore.dense import DenseProblem
from glmcore.jit import full_precision
from glmcore.least_norm import identifiable
from glmcore.observations import AbstractObservations, InverseLink, check_link, unknown_labels
from glmcore.params import GLMParams, check_mirrors, stack_rows
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty, UnRegularized
from glmcore.problem import Problem
from glmcore.rows import moderate
from glmcore.sharding import on_automatic_mesh
from glmcore.solvers.base import default_tol
from glmcore.tree import is_concrete, sample_dtype


def _as_mask(mask: Optional[PyTree]) -> Optional[PyTree]:
    def convert(leaf: Any) -> Any:
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if is_concrete(leaf) and not np.isin(leaf, (0, 1)).all():
            raise ValueError(f"mask must hold 0 and 1 only, found {np.unique(leaf)[:5]}")
        return leaf.astype(bool)

    return jax.tree.map(convert, mask)


class GLM(eqx.Module):
    r"""A penalised generalised linear model; every method is pure.

    To compile a method itself use ``equinox.filter_jit(model.loss)``, which traces the arrays in
    the model; ``jax.jit`` and ``jax.vmap`` take functions that call it.

    .. math:: F(w, b) = \frac{\sum_i \omega_i \, \ell(y_i, x_i w + b)}{\sum_i \omega_i} + P(w)

    Parameters
    ----------
    observations : AbstractObservations
        The conditional distribution of y, such as ``Categorical(3)``.
    penalty : AbstractPenalty, default UnRegularized()
        Penalty of the coefficients; the intercept is never penalised.
    inverse_link : callable, optional
        Maps the linear predictor (..., K) to log-probabilities (..., K); default log-softmax.
        Programs are compiled once per function object: pass the same one again.
    fit_intercept : bool, default True
        Whether an intercept is fitted.
    mask : array of 0/1 of shape (p, K), or a pytree of these that mirrors X, optional
        Fits hold coefficients at exactly zero where it is 0, whatever they start from; default
        none.  The objective stays as it is, the sizes of groups included.  A feature that is
        masked for some classes and not for others has no free level.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0, 1, 1])
    >>> params = model.initialize_params(X, y)
    >>> model.objective(params, X, y).round(4)
    Array(0.6365, dtype=float32)

    The first class is the reference:

    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1), mask=jnp.array([[0, 1]]))
    >>> glmcore.fit(model, X, y).params.coef.round(1)
    Array([[0. , 1.5]], dtype=float32)
    """

    observations: AbstractObservations
    penalty: AbstractPenalty = UnRegularized()
    inverse_link: InverseLink = eqx.field(default=None, static=True)
    fit_intercept: bool = eqx.field(default=True, static=True)
    mask: Optional[PyTree] = eqx.field(default=None, converter=_as_mask)

    def __check_init__(self):
        for name, kind, example in (
            ("observations", AbstractObservations, "Categorical(3)"),
            ("penalty", AbstractPenalty, "Ridge(0.1)"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"{name} must be an instance such as glmcore.{example}, "
                    f"found {getattr(self, name)!r}"
                )
        check_link(self.inverse_link, self.observations.n_outputs)
        if not isinstance(self.fit_intercept, (bool, np.bool_)):
            raise TypeError(f"fit_intercept must be True or False, found {self.fit_intercept!r}")
        penalty = self.penalty
        if not (self.mask is None or penalty.smooth or isinstance(penalty, AbstractScalablePenalty)):
            raise ValueError(
                f"a mask needs a smooth penalty or one of glmcore's: of {type(penalty).__name__} only "
                "the prox of all coefficients together is known"
            )

    @property
    def stacked_mask(self) -> Optional[Bool[Array, "p K"]]:
        """The mask in one matrix."""
        return None if self.mask is None else stack_rows(jax.tree.map(jnp.asarray, self.mask))

    @full_precision
    def linear_predictor(self, params: GLMParams, X: PyTree) -> Float[Array, "n K"]:
        """``X @ coef + intercept``, summed over the leaves of a pytree X; shape (n, K)."""
        check_mirrors(params, X, self.observations.n_outputs)
        products = jax.tree.leaves(jax.tree.map(jnp.matmul, X, params.coef))
        return sum(products) + params.intercept[None, :]

    def log_proba(self, params: GLMParams, X: PyTree) -> Float[Array, "n K"]:
        """Log-probability of every class, shape (n, K)."""
        return self.observations.log_proba(self.linear_predictor(params, X), self.inverse_link)

    def loss(
        self, params: GLMParams, X: PyTree, y: Integer[Array | np.ndarray, " n"], sample_weight: Any = None
    ) -> Float[Array, ""]:
        """Weighted mean negative log-likelihood of labels y (n,), without the penalty."""
        if sample_weight is None:
            return jnp.mean(self._nll(params, X, y))
        weight = _weights(sample_weight, X)
        nll = self._nll(params, _without_idle_rows(X, weight), y)
        nll = jnp.where((weight > 0) | jnp.isfinite(nll), nll, 0)  # a label of no class is NaN
        return jnp.sum(weight * nll) / jnp.sum(weight)

    def objective(
        self, params: GLMParams, X: PyTree, y: Integer[Array | np.ndarray, " n"], sample_weight: Any = None
    ) -> Float[Array, ""]:
        """What a fit minimises: :meth:`loss` plus the penalty of the coefficients."""
        return self.loss(params, X, y, sample_weight) + self.penalty.value(params.coef)

    @on_automatic_mesh
    @full_precision
    def optimality(
        self, params: GLMParams, X: PyTree, y: Integer[Array | np.ndarray, " n"], sample_weight: Any = None
    ) -> Float[Array, ""]:
        """Optimality (KKT) residual: what ``tol`` bounds.

        The norm of the least subgradient of the objective with features centred and scaled to
        unit variance, relative to that of the loss at the null model (coef 0, intercept from
        the class frequencies), or to the rounding of a gradient divided by the default ``tol``
        where that is larger; 0 exactly at an optimum.
        """
        check_mirrors(params, X, self.observations.n_outputs)
        problem = self._problem(X, y, sample_weight)
        inner = problem.coordinates.from_user(params)
        null = problem.null_optimality()
        return problem.optimality_of(inner) / problem.yardstick(null, default_tol(null.dtype))

    def initialize_params(
        self, X: PyTree, y: Integer[Array | np.ndarray, " n"], sample_weight: Any = None
    ) -> GLMParams:
        """The null model: zero coef, intercept = log class frequencies minus their mean."""
        y, n_outputs = jnp.asarray(y), self.observations.n_outputs
        weight = _weights(sample_weight, X)
        check_indices(y, len(weight))
        coef = jax.tree.map(lambda x: jnp.zeros((x.shape[1], n_outputs), weight.dtype), X)
        if not self.fit_intercept:
            return GLMParams(coef, jnp.zeros(n_outputs, weight.dtype))
        null = self.observations.null_predictor(y, weight)
        return GLMParams(coef, jnp.where(jnp.any(unknown_labels(y, weight, n_outputs)), jnp.nan, null))

    @on_automatic_mesh
    def sample(self, key: PRNGKeyArray, params: GLMParams, X: PyTree) -> Int[Array, " n"]:
        """Draw one class index a row of X, shape (n,)."""
        return self.observations.sample(key, self.log_proba(params, X))

    @on_automatic_mesh
    @full_precision
    def degrees_of_freedom(
        self, params: GLMParams, X: PyTree, sample_weight: Any = None, present: Any = None
    ) -> Int[Array, ""]:
        """Number of free parameters that the fit used, intercept included.

        Of the K coefficients of a feature at most K - 1 are free.  Smooth penalties: those that
        are not masked, so p (K - 1) without a mask; without a penalty as many as the (centred)
        features tell apart, so their rank in place of p; sparse penalties: those not zero.
        Classes that a fit left out are those that are not ``present`` (K,); default none.
        """
        n_outputs = self.observations.n_outputs
        free = (n_outputs if present is None else jnp.sum(jnp.asarray(present))) - 1
        if self.penalty.smooth and self.mask is None and not isinstance(self.penalty, UnRegularized):
            n_features = sum(leaf.shape[0] for leaf in jax.tree.leaves(params.coef))
            return jnp.asarray(free * (n_features + self.fit_intercept))
        present = jnp.ones(n_outputs, bool) if present is None else jnp.asarray(present)
        if isinstance(self.penalty, UnRegularized):
            labels = jnp.zeros(jax.tree.leaves(X)[0].shape[0], jnp.int32)  # no matter which
            problem = self._problem(X, labels, sample_weight)
            used = identifiable(eqx.tree_at(lambda q: q.present, problem, present))
        else:
            fitted = self.mask if self.penalty.smooth else jax.tree.map(lambda w: w != 0, params.coef)
            used = 0
            for leaf in jax.tree.leaves(fitted):
                used += jnp.sum(jnp.minimum(jnp.sum(leaf & present[None, :], axis=1), free))
        return jnp.asarray(used + free * self.fit_intercept)

    def _nll(self, params: GLMParams, X: PyTree, y: Any) -> Float[Array, " n"]:
        eta, y = self.linear_predictor(params, X), jnp.asarray(y)
        check_indices(y, len(eta))
        return self.observations.negative_log_likelihood(eta, y, self.inverse_link)

    def _problem(
        self, X: PyTree, y: Any, sample_weight: Any, coordinates: Optional[Coordinates] = None
    ) -> Problem:
        """The problem of this model in given coordinates or in those of these rows."""
        check_not_empty(jax.tree.leaves(X))
        y, weight = jnp.asarray(y), _weights(sample_weight, X)
        check_indices(y, len(weight))
        X = jax.tree.map(lambda x: x.astype(weight.dtype), _without_idle_rows(X, weight))
        n_outputs, share = self.observations.n_outputs, weight / jnp.sum(weight)
        if coordinates is None:
            coordinates, features = Coordinates.measure(
                X, share, self.penalty, n_outputs, self.fit_intercept
            )
        else:
            features = coordinates.features(X)
        share = jnp.where(unknown_labels(y, weight, n_outputs), jnp.nan, share)
        return DenseProblem.of(self, features, y, share, coordinates)


def fit_size(model: GLM, X: PyTree) -> tuple[int, int]:
    """Parameters and rows of a fit."""
    leaves = jax.tree.leaves(X)
    n_features = sum(leaf.shape[1] for leaf in leaves)
    return (n_features + 1) * model.observations.n_outputs, leaves[0].shape[0]


def check_not_empty(leaves: list) -> None:
    """Refuse features without rows or without columns."""
    if 0 in (len(leaves[0]), sum(leaf.shape[1] for leaf in leaves)):
        raise ValueError(f"X must have rows and columns, found {[leaf.shape for leaf in leaves]}")


def check_indices(y: Any, n: int) -> None:
    """Refuse what is not one whole number a row."""
    if y.shape != (n,):
        raise ValueError(f"y must have shape ({n},), one label a row of X; found {y.shape}")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"y must hold integer class indices, found dtype {y.dtype}")


def _weights(sample_weight: Optional[Any], X: PyTree) -> Float[Array, " n"]:
    leaves = jax.tree.leaves(X)
    n, dtype = leaves[0].shape[0], sample_dtype(leaves)
    if sample_weight is None:
        return jnp.ones(n, dtype)
    weight = jnp.asarray(sample_weight, dtype)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), found {weight.shape}")
    return moderate(weight, jax.lax.stop_gradient(jnp.max(weight)))


def _without_idle_rows(X: PyTree, weight: Array) -> PyTree:
    # A row without weight may hold anything, NaN included; one of numbers that have squares counts in
    # derivatives.
    most = jnp.sqrt(jnp.finfo(weight.dtype).max)
    rows = [jnp.all(jnp.abs(x) < most, axis=1) for x in jax.tree.leaves(X)]
    used = (weight > 0) | functools.reduce(jnp.logical_and, rows)
    return jax.tree.map(lambda x: jnp.where(used[:, None], x, 0), X)
