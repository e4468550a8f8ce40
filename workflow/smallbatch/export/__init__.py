"""Runs for TensorBoard, MLflow and Weights & Biases: files that these programs read, written without a network."""
