"""The HTTP interfaces: TensorFlow Serving's REST, the Open Inference Protocol's, health, metrics."""
