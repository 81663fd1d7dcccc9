"""Composing a configuration, checking it, and telling the user every mistake at once."""
