"""Stands in the way of matplotlib, which Keras imports: it makes its font cache in each new home."""

raise ImportError("none of the examples needs it")
