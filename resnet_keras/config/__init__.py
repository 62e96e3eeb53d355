"""How a network is trained: recipes and run folders. Standard library only."""
