"""One module a step, `vNNNN_what.py`; its SQL has the same name in `../sql`. A step that was released never changes."""
