"""The store on SQLite: two databases in the data folder, their connections, their errors, and their change signal."""
