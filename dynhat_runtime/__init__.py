"""dynhat-runtime: translation whose architecture follows the device's resources (Dynamic-HAT).

This file holds the version and imports nothing heavy.
"""

__version__ = "0.1.0"
