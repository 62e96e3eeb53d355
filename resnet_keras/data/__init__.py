"""Sources of images (the embedded digits, TensorFlow Datasets, folders) and the batches made of them."""
