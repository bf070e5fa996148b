"""Looking at a finished network, and at what mixing does: attacks, class activation maps, contact sheets."""
