"""Models that are published where they lie, in a bucket of their owner."""
