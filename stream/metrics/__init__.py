"""What a worker tells Prometheus. The catalogue of names: ``docs/metrics.md``."""
