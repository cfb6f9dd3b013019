"""Penalties on the coefficients: their value, their proximal operator and what a solver asks.

Strengths are array fields: another strength is another value, never another program.  A
strength is a scalar, an array that broadcasts to ``coef``, or a pytree that mirrors a pytree
``coef``.
"""

from glmcore.penalties.base import AbstractPenalty, AbstractScalablePenalty
from glmcore.penalties.group_lasso import GroupLasso
from glmcore.penalties.l1 import ElasticNet, Lasso
from glmcore.penalties.smooth import Ridge, UnRegularized

__all__ = [
    "AbstractPenalty",
    "AbstractScalablePenalty",
    "ElasticNet",
    "GroupLasso",
    "Lasso",
    "Ridge",
    "UnRegularized",
]
