"""`python -m bertsmith` is `bertsmith`."""

from bertsmith.cli.main import main

main()
