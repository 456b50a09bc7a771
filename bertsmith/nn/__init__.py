"""Building blocks of networks on packed sequences."""
