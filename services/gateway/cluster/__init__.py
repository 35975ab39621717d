"""Several gateways as one: whose session is whose, and how it becomes another's."""
