"""Objects on the token: templates, key specs, creation, search and attestation."""
