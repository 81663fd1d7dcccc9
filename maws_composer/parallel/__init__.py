"""Sharding, precision, activation checkpointing and compilation, in one place and one order."""
