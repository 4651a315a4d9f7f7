"""The terminal: parse, call, render. Nothing is decided here."""
