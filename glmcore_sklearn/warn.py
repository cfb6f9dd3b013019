"""Warnings that point to the line of the user."""

import functools

import glmcore

warn = functools.partial(glmcore.warn_user, also_between=("glmcore_sklearn", "sklearn", "joblib", "contextlib"))
