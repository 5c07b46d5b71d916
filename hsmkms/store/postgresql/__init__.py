"""The store on PostgreSQL, which several nodes share."""
