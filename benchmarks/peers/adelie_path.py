"""A path of adelie: python adelie_path.py TOL FOLDER N P K; needs no other module here."""

import sys
import time
from pathlib import Path

import adelie
import numpy as np


def main(tol, folder, n, p, n_classes):
    folder, tol, shape, n_classes = Path(folder), float(tol), (int(n), int(p)), int(n_classes)
    X = np.fromfile(folder / "X.bin").reshape(shape, order="F")
    labels = np.eye(n_classes)[np.fromfile(folder / "y.bin", np.int32)]
    strengths = np.fromfile(folder / "strengths.bin")
    start = time.perf_counter()
    state = adelie.grpnet(
        X,
        adelie.glm.multinomial(labels),
        lmda_path=strengths / n_classes,
        irls_tol=tol,
        tol=tol,
        early_exit=False,
        progress_bar=False,
        n_threads=2,
    )
    seconds = time.perf_counter() - start
    coef = state.betas.toarray().reshape(len(strengths), shape[1], n_classes)
    rows = [np.concatenate([b, w.ravel(order="F")]) for b, w in zip(state.intercepts, coef)]
    np.concatenate([[seconds], *rows]).tofile(folder / "path.bin")


if __name__ == "__main__":
    main(*sys.argv[1:])
