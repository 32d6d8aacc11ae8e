"""Methods that follow gradients down to the input."""
