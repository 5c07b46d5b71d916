"""PKCS#11 module, login and sessions: connecting to a token, and reconnecting after a loss."""
