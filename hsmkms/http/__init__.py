"""The endpoint: AWS JSON 1.1 over HTTP, signed with Signature Version 4."""
