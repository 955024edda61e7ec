"""The test suite. Its folders mirror the code's; what tests share lies in `tests/support`."""
