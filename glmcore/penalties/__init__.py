"""Penalties on the coefficients: their value, their proximal operator and what a solver asks.

Strengths are array fields: another strength is another value, never another program.  A
strength is a scalar, an array that broadcasts to ``coef``, or a pytree that mirrors a pytree
``coef``.
"""

import jax
import jax.numpy as jnp

from glmcore.penalties.base import AbstractPenalty, AbstractScalablePenalty
from glmcore.penalties.group_lasso import GroupLasso
from glmcore.penalties.l1 import ElasticNet, Lasso
from glmcore.penalties.smooth import Ridge, UnRegularized
from glmcore.penalties.strengths import exceeds_rounding
from glmcore.tree import is_concrete


def penalises_all(penalty: AbstractPenalty) -> bool:
    """Whether every coefficient is known to be penalised, so that a minimum exists."""
    entrywise = isinstance(penalty, (Ridge, Lasso, ElasticNet))
    return entrywise and is_concrete(penalty) and exceeds_rounding(penalty.strength)


def may_spare_some(penalty: AbstractPenalty) -> bool:
    """Whether some coefficients may go without penalty where others do not, as far as shapes tell."""
    entrywise = isinstance(penalty, (Ridge, Lasso, ElasticNet))
    return not entrywise or sum(jnp.size(s) for s in jax.tree.leaves(penalty.strength)) > 1


__all__ = [
    "AbstractPenalty",
    "AbstractScalablePenalty",
    "ElasticNet",
    "GroupLasso",
    "Lasso",
    "Ridge",
    "UnRegularized",
    "may_spare_some",
    "penalises_all",
]
