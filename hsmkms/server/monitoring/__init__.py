"""What monitors are told: health, metrics, the log of requests."""
