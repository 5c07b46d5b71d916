"""What a token can really do, found out by trying."""
