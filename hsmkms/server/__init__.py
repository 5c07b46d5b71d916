"""The server: its processes, the protocols that it speaks, and what it tells monitors."""
