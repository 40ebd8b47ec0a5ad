"""What is odd about pictures and labels."""
