"""Processes that may crash without harm, the loop that keeps several of them busy, and how work tells its progress."""
