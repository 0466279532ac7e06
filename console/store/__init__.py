"""What the console remembers: one database, on SQLite or PostgreSQL."""
