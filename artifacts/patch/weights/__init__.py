"""Where the weights lie in a model's file, a module for each format; none of them loads a weight."""
