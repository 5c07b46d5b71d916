"""Records of the audit log, their hash chain, and its seals."""
