"""What should be done: the policy document, inheritance, decisions. Pure functions over text and `core`'s nouns."""
