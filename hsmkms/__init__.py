"""hsmkms: a key management service on the operator's own HSM."""
