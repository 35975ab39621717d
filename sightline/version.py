"""The version of this client and of its suite, and that of the contract they speak."""

__version__ = "0.1.0"
CONTRACT_VERSION = "1.4"  # of sightline/v1/gateway.proto: what is added raises the minor number
