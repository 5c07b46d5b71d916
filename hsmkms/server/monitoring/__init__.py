"""Monitoring: health, metrics, the log of requests."""
