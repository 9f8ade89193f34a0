"""The figures of reliability, one module for each kind of mishap."""
