"""The machine: devices, precision, and how fast its matrix products are."""
