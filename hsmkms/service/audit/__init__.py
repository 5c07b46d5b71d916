"""The written audit log: seals, their notes, reading and verification."""
