"""`metrics.jsonl`, and the report that is made of it."""
