"""Whether the training path computes what it did at an earlier revision, byte for byte."""
