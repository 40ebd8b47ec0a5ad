"""Predictions against labels: figures, differences, doubtful labels."""
