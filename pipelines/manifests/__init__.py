"""What a Kubernetes environment is made of: values from tidegate.yaml, charts rendered by helm, and rules that look."""
