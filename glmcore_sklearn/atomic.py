"""Calls that leave an estimator as it was if they raise."""

import contextlib


@contextlib.contextmanager
def unchanged_on_error(estimator):
    """Give ``estimator`` its attributes back if the block raises."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
