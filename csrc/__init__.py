"""Sources of the compiled parts, and how they are compiled (`building`)."""
