"""Every Ray cluster of the tests asks for this token."""

import os
import secrets

# Before Ray is imported, which then keeps them; processes that tests start inherit them.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
