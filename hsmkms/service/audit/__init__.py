"""The audit log after it was written: seals, their notes, reading and verifying."""
