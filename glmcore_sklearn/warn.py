"""Warnings that point to the line of the user."""

import sys
import warnings

#: Packages that may stand between the user's line and ours.
_BETWEEN = ("glmcore_sklearn", "sklearn", "joblib", "contextlib")


def warn(message, category=UserWarning):
    """Warn on behalf of the nearest line of none of ``_BETWEEN``: Python shows a warning once a line."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
