"""Pickles read without executing anything in them: plain values, and tensors made of the bytes beside them."""
