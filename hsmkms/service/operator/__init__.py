"""What the operator of an installation does beside the API."""
