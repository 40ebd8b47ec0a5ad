"""A saved model behind HTTP: a queue, a process that answers, and one page for people."""
