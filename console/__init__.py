"""The web page and HTTP API."""
