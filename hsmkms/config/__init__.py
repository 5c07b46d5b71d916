"""Settings: reading them, their template, where PINs come from, how tokens are named."""
