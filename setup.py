"""Packages of the wheel.

configs/ and data_schemas/ stay at the top of a checkout, where people look for them, and are
installed inside the rlhf package, where they clash with nobody's; rlhf.config.paths.resource finds
them in both places.
"""

from setuptools import find_packages, setup

DATA = {"rlhf.configs": "configs", "rlhf.data_schemas": "data_schemas"}

setup(packages=[*find_packages(include=["rlhf*", "stages*"]), *DATA], package_dir=DATA)
