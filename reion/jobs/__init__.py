"""Long work of any command: workers, outputs that grow, plans and resources."""
