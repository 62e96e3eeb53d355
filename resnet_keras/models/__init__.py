"""What a network is: its rows, its layers, its weights."""
