"""Weights from elsewhere and for elsewhere: hand-over between stages, export."""
