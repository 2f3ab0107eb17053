"""Recordings on their way to a training step: corpora, shards, batches, features without labels."""
