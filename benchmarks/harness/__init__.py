"""How contests are run: what is measured, how long, on what machine, and how it is shown."""
