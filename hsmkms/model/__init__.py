"""Ids, ARNs, enumerations, and the request and response types of every operation."""
