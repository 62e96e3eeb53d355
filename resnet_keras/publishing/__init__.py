"""A trained network to a folder or the Hugging Face Hub, with what others need to use it."""
