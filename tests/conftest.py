"""Loads the fixtures where tests run: the process that hands them to others needs no TensorFlow."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("shared")
