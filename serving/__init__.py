"""What runs in or beside the request path."""
