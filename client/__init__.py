"""The Python client; `jetmlett_client.py` is all of it, and may be copied elsewhere."""
