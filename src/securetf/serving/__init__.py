"""Inference behind the APIs that existing clients already speak: one program that the launcher can run.

    repository   version directories of the model volume → which versions are to be served
    engines      a version directory → loaded engines, one file per kind: LiteRT, TensorFlow
    pool         requests → workers, with a bounded queue and deadlines
    models       what is served now: load in the background, warm up, swap, drain
    rest, grpc_api   the adaptation to TensorFlow Serving's and the Open Inference Protocol's messages
    server       all of it as one process; `securetf serve` starts it

Nothing here imports TensorFlow but `engines/tensorflow.py` and `convert.py`, and only when they are used. No
value of a request or an answer is ever logged or counted.
"""
