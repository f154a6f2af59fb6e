"""A laboratory for sparse fine-tuning of language models, built around gradient-mask tuning.

Importing this package imports nothing else: `gmt.masking` needs torch only, and the commands that plan or
read results need neither torch nor Ray nor MLflow.
"""

__version__ = "0.1.0"
