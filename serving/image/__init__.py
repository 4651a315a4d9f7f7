"""A release becomes an image: its recipe, its build, what is in it and the signed word about where it came from."""
