"""An exchange in a box: the providers' wire formats on loopback, one made-up world, faults to switch on.

`truth` is the world, `formats/` speak for the providers, `faults` and `edits` make them misbehave, `server`
answers. Nothing here knows the adapters: both sides meet only in bytes. Only `cli/` and the tests import it.
"""
