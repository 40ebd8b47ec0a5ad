"""Files and tables → a verified dataset, what is odd about it, and how it is split."""
