"""What operators may set of a gateway, by what it is about."""
