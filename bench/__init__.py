"""Measurements of what the README claims, against peers, side by side: `python -m bench`, needs root for loop mounts."""
