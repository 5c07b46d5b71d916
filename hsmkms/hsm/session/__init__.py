"""The module, the login and its sessions: how a token is reached, lost and found again."""
