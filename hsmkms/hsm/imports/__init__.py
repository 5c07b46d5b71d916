"""Import of key material onto the token."""
