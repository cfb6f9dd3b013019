"""The tools that are compared, one adapter file each; glmcore is a peer among them."""

from benchmarks.peers import adelie, core, face, glmnet, intelex, nemos, scikit_learn
from benchmarks.peers.base import Fit, NotInstalled, Peer, Rung

#: Every tool and solver; the order is that of the README's columns.
PEERS = [
    peer
    for module in (core, face, scikit_learn, intelex, nemos, glmnet, adelie)
    for peer in module.PEERS
]

__all__ = ["PEERS", "Fit", "NotInstalled", "Peer", "Rung"]
