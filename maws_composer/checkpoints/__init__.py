"""Checkpoints: saving, completeness, upload, resume, safe reading."""
