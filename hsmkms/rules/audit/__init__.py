"""Records of the audit log, the chain that holds them together, and its seals."""
