"""Objects on the token: templates, key specs, making, finding and reading back."""
