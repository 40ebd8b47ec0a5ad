"""Features and labels → a head with calibrated probabilities."""
