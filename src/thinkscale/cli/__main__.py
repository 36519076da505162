"""`python -m thinkscale.cli`."""

from thinkscale.cli.app import main

main()
