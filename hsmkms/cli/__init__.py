"""The command line: typer, one module per subject."""
