"""The command line. Parses words and shows results; holds no algorithm."""
