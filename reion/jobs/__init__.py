"""What commands with long work share: workers, outputs, plans of the cost, and limits of the machine."""
