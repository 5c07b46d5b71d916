"""What an open installation is: its parts, and what they keep in this process."""
