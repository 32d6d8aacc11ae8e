"""Methods that need forward passes alone: what the model says where parts of the image are changed."""
