"""Models on disk: Hugging Face folders, their tensors, and what a path means."""
