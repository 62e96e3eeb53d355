"""Images in: one way in for the embedded digits, TensorFlow Datasets and folders, and the batches made of them."""
