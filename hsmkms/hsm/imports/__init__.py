"""How imported key material comes onto the token."""
