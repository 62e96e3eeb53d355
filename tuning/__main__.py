"""`python -m tuning SPACE`: `resnet-keras tune SPACE`, from a checkout."""

import sys

from resnet_keras.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
