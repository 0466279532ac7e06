"""The nouns that every program shares: block sources, files, findings, gaps, errors. Standard library only, Python >= 3.9."""
