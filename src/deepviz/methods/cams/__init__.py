"""Class activation maps: methods that weight a layer's feature maps."""
