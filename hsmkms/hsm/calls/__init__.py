"""Calls of PKCS#11 functions through the module's function list, where python-pkcs11 makes more calls than needed."""
