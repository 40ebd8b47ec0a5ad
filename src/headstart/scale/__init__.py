"""Many machines: the same results as one machine, sooner."""
