"""Durable scans: workers that lease slots, and the engine that remembers which steps of a scan are done."""
