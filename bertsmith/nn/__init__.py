"""The network, its losses, and its form on disk."""
