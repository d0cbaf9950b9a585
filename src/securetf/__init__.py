"""securetf: unmodified TensorFlow programs on machines that are not trusted."""

__version__ = "0.1.0"
