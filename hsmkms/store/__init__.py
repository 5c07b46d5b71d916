"""Metadata only: SQLAlchemy Core on SQLite, Alembic migrations."""
