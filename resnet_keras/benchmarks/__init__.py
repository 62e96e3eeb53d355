"""`resnet-keras benchmark`: how fast this machine trains, predicts, reads and serves, and which share of it is used."""
