"""The program `resnet-keras`."""
