"""Building a `Kms` from settings: the only place where store, device and service meet."""
