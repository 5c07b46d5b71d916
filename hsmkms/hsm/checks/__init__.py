"""What ``token-check`` tries on a token, one module for each subject."""
