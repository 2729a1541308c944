"""Training recipes, one command each: ``python -m trainer.recipes.starter``."""
