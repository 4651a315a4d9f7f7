"""What exists and where it came from: MLflow, ledger, lineage."""
