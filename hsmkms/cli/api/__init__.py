"""Commands of the API, generated from its tables."""
