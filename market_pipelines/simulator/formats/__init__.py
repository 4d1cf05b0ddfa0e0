"""How each provider words the world, byte for byte. Written from captures, never from the adapters."""
