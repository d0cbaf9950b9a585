"""The gRPC interfaces: TensorFlow Serving, Open Inference Protocol, health. Messages stay bytes until a
handler reads them, because a receipt is over the bytes.
"""
