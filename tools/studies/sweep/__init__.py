"""What chooses a learning rate for a row of a study: a training at each rate, and the choice among them."""
