"""The façade `Kms` and the procedures behind it."""
