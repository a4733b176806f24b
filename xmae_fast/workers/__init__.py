"""Processes that may crash without harm, and threads that keep several of them at work."""
