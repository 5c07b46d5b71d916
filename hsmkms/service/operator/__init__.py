"""The operator's procedures, besides the API."""
