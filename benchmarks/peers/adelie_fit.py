"""One fit of adelie: python adelie_fit.py TOL STRENGTH FOLDER N P K; needs no other module here."""

import sys
import time
from pathlib import Path

import adelie
import numpy as np


def main(tol, strength, folder, n, p, n_classes):
    folder, tol, shape = Path(folder), float(tol), (int(n), int(p))
    X = np.fromfile(folder / "X.bin").reshape(shape, order="F")
    labels = np.eye(int(n_classes))[np.fromfile(folder / "y.bin", np.int32)]
    start = time.perf_counter()
    state = adelie.grpnet(
        X,
        adelie.glm.multinomial(labels),
        lmda_path=[float(strength) / int(n_classes)],
        irls_tol=tol,
        tol=tol,
        early_exit=False,
        progress_bar=False,
        n_threads=2,
    )
    seconds = time.perf_counter() - start
    coef = state.betas.toarray()[-1].reshape(shape[1], int(n_classes))
    fit = np.concatenate([[seconds, 0.0], state.intercepts[-1], coef.ravel(order="F")])
    fit.tofile(folder / "fit.bin")


if __name__ == "__main__":
    main(*sys.argv[1:])
