"""Methods that explain transformers by their attention, or by the tokens between which it is computed."""
