"""Observation models: how a linear predictor becomes the probability of what was observed.

This is the seam for other GLM families: a solver sees the labels of a sample only through the
methods of :class:`AbstractObservations`.  What it takes for granted beside them is said where it
does: under the canonical link probabilities are a softmax, and a shift of all outputs is not seen.
"""

import abc
import functools
import numbers
from collections.abc import Callable
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray

from glmcore.tree import is_concrete

#: Maps the linear predictor (..., K) to log-probabilities (..., K); None is the log-softmax.
InverseLink = Optional[Callable]


class AbstractObservations(eqx.Module):
    """The conditional distribution of a sample given its linear predictor ``eta``.

    Every method returns one number a sample (or one a sample and class): weights and sums come
    later.  ``eta`` holds the K outputs along its last axis, but for what a solver calls in its inner
    loop, from ``value_and_residual`` to ``curvature``: there it holds the C contrasts along its
    first, since long rows vectorise on a CPU and short ones do not.  C is K unless a model overrides
    ``contrasted``, ``contrasts`` and ``outputs``.
    """

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """Length of the last axis of the linear predictor."""

    def contrasted(self, inverse_link: InverseLink = None) -> "AbstractObservations":
        """The same distribution as a solver sees it, by contrasts that are fewer than the outputs."""
        return self

    def contrasts(self, outputs: Array) -> Array:
        """A linear map of the last axis, (..., K) to (..., C), that keeps all on which the likelihood
        depends."""
        return outputs

    def outputs(self, contrasts: Array) -> Array:
        """The transpose of :meth:`contrasts`, (..., C) to (..., K): a derivative in the contrasts
        becomes one in the outputs."""
        return contrasts

    @abc.abstractmethod
    def log_proba(self, eta: Array, inverse_link: InverseLink = None) -> Array:
        """Log-probability of every possible outcome."""

    @abc.abstractmethod
    def negative_log_likelihood(
        self, eta: Array, y: Array, inverse_link: InverseLink = None
    ) -> Array:
        """Negative log-likelihood of each sample, NaN for what cannot be observed."""

    @abc.abstractmethod
    def value_and_residual(
        self, eta: Array, y: Array, inverse_link: InverseLink = None
    ) -> tuple[Array, Array]:
        """Negative log-likelihood of each sample and its derivative in ``eta``."""

    @abc.abstractmethod
    def divergence(
        self, change: Array, eta: Array, y: Array, inverse_link: InverseLink = None
    ) -> Array:
        """By how much the negative log-likelihood at ``eta + change`` exceeds its tangent at ``eta``."""

    @abc.abstractmethod
    def hessian(self, eta: Array, y: Array, inverse_link: InverseLink = None) -> Array:
        """Second derivatives of each negative log-likelihood, (C, C, n) for ``eta`` (C, n)."""

    @abc.abstractmethod
    def curvature(self, eta: Array, y: Array, inverse_link: InverseLink = None) -> Array:
        """Second derivatives in one output each, (K, n) for ``eta`` (C, n): the diagonal of
        :meth:`hessian`, brought to outputs."""

    @abc.abstractmethod
    def frequencies(self, y: Array, weight: Array) -> Array:
        """Share of each output in the total weight: one without any is left out of a fit."""

    @abc.abstractmethod
    def null_predictor(self, y: Array, weight: Array) -> Array:
        """Linear predictor of the model without features."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, log_proba: Array) -> Array:
        """Draw one outcome a sample."""


def _as_count(n: Any) -> int:
    if not isinstance(n, numbers.Real) or n % 1 != 0:
        raise ValueError(f"n_classes must be a whole number, found {n!r}")
    return int(n)


class Categorical(AbstractObservations):
    r"""Labels ``0 .. K-1`` with the log-probabilities ``log_softmax(eta)``.

    .. math:: -\log p(y \mid \eta) = \log \sum_k e^{\eta_k} - \eta_y

    Parameters
    ----------
    n_classes : int
        The number K of classes, at least 2.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from glmcore import Categorical
    >>> Categorical(3)
    Categorical(3)
    >>> Categorical(3).negative_log_likelihood(jnp.zeros((1, 3)), jnp.array([2])).round(4)
    Array([1.0986], dtype=float32)
    """

    n_classes: int = eqx.field(static=True, converter=_as_count)

    def __check_init__(self):
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, found {self.n_classes}")

    def __repr__(self) -> str:
        return f"Categorical({self.n_classes})"

    @property
    def n_outputs(self) -> int:
        return self.n_classes

    def contrasted(self, inverse_link: InverseLink = None) -> "Categorical":
        # A class of a user's may say something else of the linear predictors.
        is_known = type(self) is Categorical and is_log_softmax(inverse_link)
        return _Binary(2) if is_known and self.n_classes == 2 else self

    def log_proba(
        self, eta: Float[Array, "*n K"], inverse_link: InverseLink = None
    ) -> Float[Array, "*n K"]:
        return (inverse_link or jax.nn.log_softmax)(eta)

    def negative_log_likelihood(
        self, eta: Float[Array, "*n K"], y: Integer[Array, "*n"], inverse_link: InverseLink = None
    ) -> Float[Array, "*n"]:
        known = are_classes(y, self.n_classes)
        if not is_log_softmax(inverse_link):
            return jnp.where(known, -self._pick(inverse_link(eta), y), jnp.nan)
        # The label's predictor first: of large numbers the differences are exact.
        ahead = eta - self._pick(eta, y)[..., None]
        top = jax.lax.stop_gradient(jnp.max(ahead, axis=-1))
        exp = jnp.exp(ahead - top[..., None])
        others = jnp.sum(jnp.where(self._is_label(y), 0, exp), axis=-1)
        # A sum with the one of a label that leads would round the small others away.
        nll = top + jnp.log1p(jnp.where(top == 0, others, jnp.sum(exp, axis=-1) - 1))
        return jnp.where(known, nll, jnp.nan)

    def value_and_residual(
        self, eta: Float[Array, "K *n"], y: Integer[Array, "*n"], inverse_link: InverseLink = None
    ) -> tuple[Float[Array, "*n"], Float[Array, "K *n"]]:
        if not is_log_softmax(inverse_link):
            value, pullback = jax.vjp(
                lambda e: self.negative_log_likelihood(jnp.moveaxis(e, 0, -1), y, inverse_link),
                eta,
            )
            return value, pullback(jnp.ones_like(value))[0]
        # Written out, not differentiated: one exponential serves the value and the derivative.
        # What the other classes have counts: beside a label that is nearly certain it is small,
        # and a difference to one would round it away.
        is_label = self._is_label(y, axis=0)
        top = _over_classes(jnp.maximum, eta, spread=True)
        # Stored and read again for `behind`: a kernel that read `top` there would be made to write
        # over it, and XLA's older emitters do not vectorise what writes over its input.
        shifted = eta - top[None]
        exp = jnp.exp(shifted)

        def own(row, k):
            return jnp.where(y == k, row, 0)

        label = _over_classes(jnp.add, exp, own)
        others = _over_classes(jnp.add, exp, lambda row, k: jnp.where(y == k, 0, row))
        behind = -_over_classes(jnp.add, shifted, own)
        # Two quotients: what is divided is stored, a sum would be taken anew for each class.
        total = others + label
        # Read from the last class on, `exp` is not written over, see above; beyond a cache that is faster.
        order = slice(None, None, -1 if others.size < _LOOP_SAMPLES else 1)
        residual = jnp.where(is_label[order], -(others / total)[None], exp[order] / total[None])[order]
        return jnp.log1p(others + (label - 1)) + behind, residual

    def divergence(
        self,
        change: Float[Array, "K *n"],
        eta: Float[Array, "K *n"],
        y: Integer[Array, "*n"],
        inverse_link: InverseLink = None,
    ) -> Float[Array, "*n"]:
        if not is_log_softmax(inverse_link):
            value, residual = self.value_and_residual(eta, y, inverse_link)
            moved = jnp.moveaxis(eta + change, 0, -1)
            moved = self.negative_log_likelihood(moved, y, inverse_link)
            return moved - value - jnp.sum(residual * change, axis=0)
        # log E exp(z) for the centred change z, without the cancellation that the difference
        # of two log-likelihoods suffers: E z = 0, so E exp(z) - 1 = E (expm1(z) - z).
        shifted, total = _shifted(eta)
        proba = jnp.exp(shifted) / total[None]
        z = change - _over_classes(jnp.add, proba * change, spread=True)[None]
        small = jnp.abs(z) < 0.1
        s = jnp.where(small, z, 0)
        series = s * s * (1 / 2 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s / 720))))
        excess = jnp.where(small, series, jnp.expm1(jnp.minimum(z, 1)) - jnp.minimum(z, 1))
        near = jnp.log1p(_over_classes(jnp.add, proba * excess))
        # Far away nothing cancels, and a class may gain whose probability is as good as 0.
        far, moved = _over_classes(jnp.maximum, z), shifted + z
        top = _over_classes(jnp.maximum, moved, spread=True)
        sums = _over_classes(jnp.add, jnp.exp(moved - top[None]))
        return jnp.where(far > 1, top + jnp.log(sums) - jnp.log(total), near)

    def hessian(
        self, eta: Float[Array, "K n"], y: Integer[Array, " n"], inverse_link: InverseLink = None
    ) -> Float[Array, "K K n"]:
        identity = jnp.eye(self.n_classes, dtype=eta.dtype)
        if is_log_softmax(inverse_link):
            proba = _softmax(eta)
            return proba[:, None, :] * (identity[:, :, None] - proba[None, :, :])

        def residual(eta):
            return self.value_and_residual(eta, y, inverse_link)[1]

        def along(direction):
            direction = jnp.broadcast_to(direction[:, None], eta.shape)
            return jax.jvp(residual, (eta,), (direction,))[1]

        return jax.vmap(along)(identity)

    def curvature(
        self, eta: Float[Array, "K n"], y: Integer[Array, " n"], inverse_link: InverseLink = None
    ) -> Float[Array, "K n"]:
        if is_log_softmax(inverse_link):
            proba = _softmax(eta)
            return proba * (1 - proba)
        return jnp.einsum("kkn->kn", self.hessian(eta, y, inverse_link))

    def frequencies(
        self, y: Integer[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " K"]:
        """Share of each class in the total weight."""
        counts = jnp.sum(jnp.where(self._is_label(y), weight[:, None], 0), axis=0)
        return counts / jnp.sum(weight)

    def null_predictor(
        self, y: Integer[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " K"]:
        """Log class frequencies minus their mean; an absent class counts as half a sample."""
        floor = 0.5 / jnp.maximum(jnp.sum(weight > 0), 1).astype(weight.dtype)
        frequencies = self.frequencies(y, weight)
        log = jnp.log(jnp.where(frequencies > 0, frequencies, floor))
        return log - jnp.mean(log)

    def sample(
        self, key: Any, log_proba: Float[Array, "*n K"]
    ) -> Int[Array, "*n"]:
        check_key(key)
        return jax.random.categorical(key, log_proba)

    def _is_label(self, y: Integer[Array, "*n"], axis: int = -1) -> Bool[Array, "..."]:
        # A comparison fuses into its consumer: no one-hot matrix is stored, and on a CPU it
        # vectorises where a gather (and the scatter that is its transpose) does not.
        y, classes = y.astype(jnp.int32), jnp.arange(self.n_classes, dtype=jnp.int32)
        others = tuple(range(y.ndim)) if axis == -1 else tuple(range(1, y.ndim + 1))
        return jnp.expand_dims(y, axis) == jnp.expand_dims(classes, others)

    def _pick(self, values: Float[Array, "*n K"], y: Integer[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.sum(jnp.where(self._is_label(y), values, 0), axis=-1)


class _Binary(Categorical):
    """Two classes under the canonical link as a solver sees them: by the one contrast that they
    depend on, how far the linear predictor of class 1 is ahead of that of class 0.

    A value and its derivative take one exponential, and a product with the features one column.
    """

    def contrasts(self, outputs: Float[Array, "*n 2"]) -> Float[Array, "*n 1"]:
        return outputs[..., 1:] - outputs[..., :1]

    def outputs(self, contrasts: Float[Array, "*n 1"]) -> Float[Array, "*n 2"]:
        return jnp.concatenate([-contrasts, contrasts], axis=-1)

    def value_and_residual(
        self, eta: Float[Array, "1 *n"], y: Integer[Array, "*n"], inverse_link: InverseLink = None
    ) -> tuple[Float[Array, "*n"], Float[Array, "1 *n"]]:
        is_second = y == 1
        ahead = jnp.where(is_second, eta[0], -eta[0])  # the label
        leads = ahead > 0
        # The exponential of what is not positive, by two branches that meet in all derivatives.
        exp = jnp.exp(jnp.where(leads, -ahead, ahead))
        other = jnp.where(leads, exp, 1) / (1 + exp)
        value = jnp.log1p(exp) + jnp.where(leads, 0, -ahead)
        return value, jnp.where(is_second, -other, other)[None]

    def divergence(
        self,
        change: Float[Array, "1 *n"],
        eta: Float[Array, "1 *n"],
        y: Integer[Array, "*n"],
        inverse_link: InverseLink = None,
    ) -> Float[Array, "*n"]:
        # The class 0 at the level 0.
        change, eta = (jnp.concatenate([0 * row, row]) for row in (change, eta))
        return super().divergence(change, eta, y)

    def hessian(
        self, eta: Float[Array, "1 n"], y: Integer[Array, " n"], inverse_link: InverseLink = None
    ) -> Float[Array, "1 1 n"]:
        exp = jnp.exp(-jnp.abs(eta))
        return (exp / jnp.square(1 + exp))[None]

    def curvature(
        self, eta: Float[Array, "1 n"], y: Integer[Array, " n"], inverse_link: InverseLink = None
    ) -> Float[Array, "2 n"]:
        return jnp.broadcast_to(self.hessian(eta, y)[0], (2, eta.shape[1]))


#: Classes up to which a sum over the class axis is written out, of less samples than those for
#: which a loop over the classes pays, and of more; and classes of one that is spread.
_UNROLLED_CLASSES, _FEW_CLASSES, _FEW_SPREAD = 32, 16, 4
_LOOP_SAMPLES = 2**14


def _over_classes(
    combine: jnp.ufunc,
    values: Float[Array, "K *n"],
    term: Callable = lambda row, k: row,
    spread: bool = False,
) -> Float[Array, "*n"]:
    """Reduce ``term(values[k], k)`` over the classes k; ``spread`` says that every class needs it.

    Written out, it fuses with what is around it and vectorises, but XLA does it anew for each row
    of a result with K of them, unless it divides that.  A reduction is stored, but slow where it
    leaves the cache; there, on a CPU, a loop over the classes takes a half to a fifth of the time.
    """
    K = values.shape[0]

    def written_out() -> Float[Array, "*n"]:
        return functools.reduce(combine, [term(values[k], k) for k in range(K)])

    def at_once() -> Float[Array, "*n"]:
        return combine.reduce(jax.vmap(term)(values, jnp.arange(K, dtype=jnp.int32)), axis=0)

    def one_by_one() -> Float[Array, "*n"]:
        def add(k: Int[Array, ""], total: Float[Array, "*n"]) -> Float[Array, "*n"]:
            row = jax.lax.dynamic_index_in_dim(values, k, axis=0, keepdims=False)
            return combine(total, term(row, k))

        return jax.lax.fori_loop(1, K, add, term(values[0], 0))

    few = written_out if K <= _UNROLLED_CLASSES else at_once
    stored = at_once if values[0].size < _LOOP_SAMPLES else one_by_one
    if (spread and K > _FEW_SPREAD) or (K > _FEW_CLASSES and stored is one_by_one):
        return jax.lax.platform_dependent(cpu=stored, default=few)
    return few()


def _shifted(eta: Float[Array, "K *n"]) -> tuple[Float[Array, "K *n"], Float[Array, "*n"]]:
    """``eta`` minus the largest of its row, and the sum of its exponentials."""
    shifted = eta - _over_classes(jnp.maximum, eta, spread=True)[None]
    return shifted, _over_classes(jnp.add, jnp.exp(shifted))


def _softmax(eta: Float[Array, "K *n"]) -> Float[Array, "K *n"]:
    shifted, total = _shifted(eta)
    return jnp.exp(shifted) / total[None]


def are_classes(y: Integer[Array, "*n"], n_classes: int) -> Bool[Array, "*n"]:
    """Which labels are from 0 to K - 1."""
    return (y >= 0) & (y <= min(n_classes - 1, jnp.iinfo(y.dtype).max))


def unknown_labels(y: Any, weight: Any, n_classes: int) -> Bool[Array, " n"]:
    """Which labels of rows with weight are no class's: for labels that only a compiled program
    sees, which has no errors."""
    return ~are_classes(y, n_classes) & (weight > 0)


def check_key(key: Any) -> None:
    """Refuse what is no PRNG key, of the new kind or of the old one."""
    dtype = getattr(key, "dtype", None)
    is_old = dtype == jnp.uint32 and jnp.ndim(key) > 0
    if dtype is None or not (is_old or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        raise TypeError(f"key must be a PRNG key such as jax.random.key(0), found {key!r}")


def check_link(inverse_link: InverseLink, n_outputs: int) -> None:
    """Refuse what cannot be hashed, as programs are kept by it, or does not map (n, K) to
    log-probabilities (n, K) with operations of JAX."""
    if is_log_softmax(inverse_link):
        return
    if not callable(inverse_link):
        raise TypeError(f"inverse_link must be callable or None, found {inverse_link!r}")
    try:
        hash(inverse_link)
    except TypeError as error:
        raise TypeError(f"inverse_link must be hashable, found {inverse_link!r}") from error
    _check_link(inverse_link, n_outputs)


@functools.lru_cache(maxsize=64)  # the link is traced to find out
def _check_link(inverse_link: InverseLink, n_outputs: int) -> None:
    shape = (2, n_outputs)
    try:
        # Called from a function of Python: JAX crashes where it meets a ufunc of NumPy the second time.
        found = jax.eval_shape(lambda eta: inverse_link(eta), jax.ShapeDtypeStruct(shape, jnp.float32))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError("inverse_link must be written with jax.numpy, not with numpy") from error
    if getattr(found, "shape", None) != shape:
        raise ValueError(
            f"inverse_link must map (n, {n_outputs}) to (n, {n_outputs}); "
            f"it maps {shape} to {getattr(found, 'shape', found)}"
        )
    with jax.ensure_compile_time_eval():
        total = jnp.sum(jnp.exp(inverse_link(jnp.zeros(shape, jnp.float32))[0]))
    if is_concrete(total) and abs(float(total) - 1) > 1e-3:
        raise ValueError(
            "inverse_link must give log-probabilities, whose exponentials sum to 1; where the linear "
            f"predictor is 0 they sum to {float(total):.3g}"
        )


def is_log_softmax(inverse_link: InverseLink) -> bool:
    """Whether the link is the canonical one, for which closed forms hold."""
    return inverse_link is None or inverse_link is jax.nn.log_softmax
