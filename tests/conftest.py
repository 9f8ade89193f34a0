"""What every test may rely on."""

import signal

# A shell that starts the tests in the background lets them, and what they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
