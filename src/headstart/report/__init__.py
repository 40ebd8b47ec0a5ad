"""Records → pictures and files for people."""
