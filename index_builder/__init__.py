"""Offline: turns a product catalogue into a verified artifact. The one place that knows FAISS."""
