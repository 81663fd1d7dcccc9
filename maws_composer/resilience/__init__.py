"""Always on: what keeps a run alive, or ends it cleanly."""
