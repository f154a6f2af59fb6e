"""Training: transformers' Trainer with a method attached. Knows nothing of records, MLflow or studies."""
