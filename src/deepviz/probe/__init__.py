"""Touch a model and put it back: gradients, rules, capture, chunks."""
