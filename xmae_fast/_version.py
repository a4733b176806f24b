"""The version of the package, which pyproject.toml reads from here, and everything that shows a version."""

__version__ = "0.2.0"
"""The version of this package."""
