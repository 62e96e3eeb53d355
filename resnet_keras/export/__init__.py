"""A SavedModel that TensorFlow Serving loads: signatures, versions, manifest."""
