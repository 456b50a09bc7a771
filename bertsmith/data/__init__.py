"""From documents to batches: tokens, pairs, masks."""
