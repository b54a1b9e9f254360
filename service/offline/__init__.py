"""Offline batches: any number of users from a file to a file, or from one record batch to another."""
