"""The simulator's live side: what happens now, told over WebSockets in the providers' own protocols."""
