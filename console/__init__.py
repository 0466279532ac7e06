"""The console: what is known of the estate, who may see and change it, and what fleets shall do."""
