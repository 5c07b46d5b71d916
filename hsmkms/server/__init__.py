"""The server: its processes, the protocols that it speaks, and its pages for monitoring."""
