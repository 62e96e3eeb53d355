"""What a trained network says of images: predict, evaluate, explain."""
