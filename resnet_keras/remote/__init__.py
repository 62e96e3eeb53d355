"""Folders of object stores, by way of a copy on this machine."""
