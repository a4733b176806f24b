"""Simulated ECG and PPG with known beats and pulse arrival times, written as shards."""
