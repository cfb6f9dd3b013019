"""Speed and memory of glmcore beside its peers; ``python -m benchmarks`` runs everything."""
