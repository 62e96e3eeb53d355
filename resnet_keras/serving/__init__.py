"""TensorFlow Serving's API on this machine: versions, batching, REST, gRPC, and a page to try a model on."""
