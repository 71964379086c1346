"""The command line of Postern; every service lives in its own package."""
