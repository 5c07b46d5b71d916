"""Commands of the API, made from its tables."""
