"""What is done with vectors of texts: they are made, judged, and searched."""
