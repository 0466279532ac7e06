"""What the console and its callers say to each other: the documents (`model`) and a typed client (`api`)."""
