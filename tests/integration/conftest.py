"""Fixtures of the tests on real parts."""

from instance_fixture import box, healthy, instances, rough, test_home

__all__ = ["box", "healthy", "instances", "rough", "test_home"]
