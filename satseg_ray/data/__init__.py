"""Ray Data: rows of independent work, ingest and tile."""
