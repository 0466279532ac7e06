"""What an operator sets up in a cloud for Kumomori, as data. Knows no cloud's SDK and none of the other programs."""
