"""Studies of several steps or runs: the quickstart, comparisons, searches, trainings from several seeds."""
