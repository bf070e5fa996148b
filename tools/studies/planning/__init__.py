"""What is to be done: the stages of a study, what each is made from, and what it costs."""
