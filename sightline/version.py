"""The version of this client, of the contract it speaks and of the suite it comes with."""

__version__ = "0.1.0"
