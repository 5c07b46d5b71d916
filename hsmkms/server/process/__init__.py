"""Listener, workers and connections."""
