"""Values that every layer speaks in: frozen, and nothing of the host."""
