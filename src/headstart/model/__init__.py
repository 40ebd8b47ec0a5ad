"""The narrow waist: a classifier, and its directory on disk."""
