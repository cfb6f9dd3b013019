"""Warnings that point to the line of the user."""

import functools

import glmcore

#: Packages that may stand between the user's line and ours.
_BETWEEN = ("glmcore_sklearn", "glmcore", "sklearn", "joblib", "contextlib", "jax", "equinox", "jaxtyping")

warn = functools.partial(glmcore.warn_user, between=_BETWEEN)
