"""How fast the whole bot is, beside other ways to run the same model."""
