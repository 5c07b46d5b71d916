"""Authorisation: policies, their conditions, principals and grants."""
