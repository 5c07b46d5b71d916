"""Migrations of meta.db."""
