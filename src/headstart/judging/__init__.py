"""A classifier or its predictions → how good they are."""
