"""Offline: turns a product catalogue into a verified artifact."""
