"""Stands in the way of scikit-learn, which Keras imports where it is: a third of a program's start."""

raise ImportError("none of the examples needs it")
