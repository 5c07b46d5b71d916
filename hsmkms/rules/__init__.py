"""Pure rules: no I/O, no clock, no PKCS#11, no SQL."""
