"""`python -m resnet_keras`: the program `resnet-keras`."""

import sys

from resnet_keras.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
