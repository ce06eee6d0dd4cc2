"""What each operation does to units. A rule belongs to an operation or a module type, never to a network."""
