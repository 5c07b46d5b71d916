"""Alembic migrations of the two databases."""
