"""What tests of several modules share, by subject."""
