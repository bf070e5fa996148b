"""What a mean says nothing of: where AP is lost, how far scores can be believed, what the labels may have wrong."""
