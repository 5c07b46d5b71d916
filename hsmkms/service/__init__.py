"""The procedures behind the façade `Kms`."""
