"""Open, trainable lip sync."""
