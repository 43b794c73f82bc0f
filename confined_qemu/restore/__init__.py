"""The journal, and whoever puts back what it names."""
