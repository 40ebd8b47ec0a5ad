"""The verbs that command line and API both call."""
