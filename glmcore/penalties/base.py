"""What a penalty is."""

import abc
from typing import Any, Optional

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree


class AbstractPenalty(eqx.Module):
    r"""What a penalty is to the library; subclass it to bring your own.

    ``smooth`` says whether ``value`` can be differentiated everywhere; then that is all that a
    solver for smooth problems asks.  ``ProximalGradient``, ``ProximalNewton`` and ``ProxSVRG`` ask
    for a method besides,

    .. math:: prox(coef, step) = \arg\min_u \tfrac12 \lVert u - coef \rVert^2 + step \cdot value(u)

    where ``step`` is a number, or entries that broadcast to ``coef`` (then the quadratic term is
    divided by them entry by entry).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> class Smoothness(glmcore.AbstractPenalty):
    ...     smooth = True
    ...     def value(self, coef):
    ...         return jnp.sum(jnp.diff(coef, axis=0) ** 2)
    >>> Smoothness().value(jnp.array([[0.0], [1.0], [3.0]]))
    Array(5., dtype=float32)
    """

    smooth: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def value(self, coef: PyTree) -> Float[Array, ""]:
        """The penalty of ``coef``."""


class AbstractScalablePenalty(AbstractPenalty):
    """A penalty that can be carried exactly through a rescaling of the features."""

    @abc.abstractmethod
    def prox(self, coef: PyTree, step: Any) -> PyTree:
        """Proximal operator, see :class:`AbstractPenalty`."""

    @abc.abstractmethod
    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        """The element of least norm of ``gradient`` + the subdifferential at ``coef``."""

    @abc.abstractmethod
    def common_scale(self, scale: PyTree) -> PyTree:
        """The closest scale (per entry of coef) under which the prox keeps its closed form."""

    @abc.abstractmethod
    def curvature(self, coef: PyTree) -> PyTree:
        """Second derivative of the quadratic part, per entry of ``coef``."""

    @abc.abstractmethod
    def pressure(self, gradient: PyTree) -> PyTree:
        """What ``gradient`` multiplies the strengths by where it just fails to move an entry from
        zero: above 1 the entry moves.  Infinite where nothing holds it at zero."""

    def groups(self, coef: PyTree) -> Optional[PyTree]:
        """The group of each entry where the penalty is a sum of norms of groups; None where
        entries stand alone."""
        return None

    @abc.abstractmethod
    def on_features(
        self, coef: PyTree, index: Int[Array, " q"]
    ) -> Optional["AbstractScalablePenalty"]:
        """The penalty of the chosen rows of ``coef``, its leaves stacked, the others being zero;
        None if groups may reach across rows."""

    @abc.abstractmethod
    def level(self, coef: PyTree, present: Bool[Array, " K"]) -> PyTree:
        """Shift the classes of each feature by the constant that costs least to those that are
        ``present``, of several the one of least l2 norm.  The softmax does not see such a shift."""

    @abc.abstractmethod
    def check(self, coef: PyTree) -> None:
        """Raise a ValueError if a strength has a bad value or does not fit ``coef``."""
