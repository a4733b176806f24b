"""Measurements that are made once and have commands of their own."""
