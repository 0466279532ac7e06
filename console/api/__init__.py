"""The routes of the console, one module a subject."""
