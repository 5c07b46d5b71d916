"""PKCS#11 only; nothing else in the package imports pkcs11."""
