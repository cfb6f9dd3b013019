"""scikit-learn's callbacks, from its version 1.9 on: they are told of every step of a fit."""

import contextlib
import importlib.util

from sklearn.utils.metaestimators import available_if


def _are_known(estimator):
    return importlib.util.find_spec("sklearn.callback") is not None


class TakesCallbacks:
    """``set_callbacks``, where scikit-learn has it."""

    @available_if(_are_known)
    def set_callbacks(self, *callbacks):
        """Tell callbacks of scikit-learn of every step of a fit.

        Parameters
        ----------
        *callbacks
            Such as ``sklearn.callback.ProgressBar()`` and ``ScoringMonitor(scoring=...)``, in place of those that
            were set; nobody is told without any.  If one returns True at the end of a step, the fit ends there.

        Returns
        -------
        self

        Examples
        --------
        >>> from sklearn.callback import ScoringMonitor
        >>> from sklearn.datasets import load_iris
        >>> from glmcore_sklearn import LogisticRegression
        >>> monitor = ScoringMonitor(scoring="neg_log_loss")
        >>> model = LogisticRegression().set_callbacks(monitor).fit(*load_iris(return_X_y=True))
        >>> whole, *steps = [task["neg_log_loss"] for task in monitor.get_logs().data]
        >>> steps == sorted(steps), steps[-1] == whole
        (True, True)
        """
        from sklearn.callback import CallbackSupportMixin  # takes as long to import as all of this library

        return CallbackSupportMixin.set_callbacks(self, *callbacks)


@contextlib.contextmanager
def telling(estimator, X, y, sample_weight):
    """Tell the callbacks of ``estimator`` of the fit in the block.

    Gives a function that makes listeners for ``glmcore.fit`` of them, a list: it is passed what gives the attributes
    of an estimator that predicts with given parameters of the core.
    """
    if not vars(estimator).get("_skl_callbacks"):
        yield lambda attributes: []
        return
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback._callback_support import callback_management_context

    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    about = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
    with callback_management_context(estimator):
        context = CallbackSupportMixin._init_callback_context(estimator, max_subtasks=None)
        context.call_on_fit_task_begin(**about)
        yield lambda attributes: [_Steps(context, about, attributes)]
        context.call_on_fit_task_end(**about, reconstruction_attributes={})


class _Steps:
    """A listener to whom each step is a subtask of the fit."""

    every = 1

    def __init__(self, context, about, attributes):
        self._context, self._about, self._attributes = context, about, attributes
        self._step = self._begun()

    def _begun(self, attributes=None):
        step = self._context.subcontext("step")
        step.call_on_fit_task_begin(**self._about, reconstruction_attributes=attributes)
        return step

    def __call__(self, progress):
        if self._step is None:  # this one asked for the end
            return

        def attributes():
            return self._attributes(progress.params())

        step, self._step = self._step, None
        if step.call_on_fit_task_end(**self._about, reconstruction_attributes=attributes):
            raise StopIteration
        if not progress.done:
            self._step = self._begun(attributes)
